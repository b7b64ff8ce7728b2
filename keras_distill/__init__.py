"""Knowledge distillation for Keras: distillers, teachers, terms."""
from keras_distill import callbacks, losses, taps, teachers
from keras_distill.batch import Batch, Supervision
from keras_distill.distiller import Distiller
from keras_distill.teachers import CachedTeacher, ModelTeacher, SelfTeacher, Teacher
from keras_distill.term import Term
