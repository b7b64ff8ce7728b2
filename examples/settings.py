"""The numbers that many examples take as options, each with its help text."""

HELP = {
    "seeds": "how many seeds to run",
    "epochs": "the epochs of each student",
    "teacher_epochs": "the teacher's epochs",
    "encoder_epochs": "the encoder's epochs",
    "batch_size": "the examples of a batch",
    "alpha": "the teacher's share of the loss",
    "temperature": "divides the logits of teacher and student",
    "hint": "the weight of the term between features",
    "attention": "the weight of the attention term",
    "similarity": "the weight of the similarity term",
    "logits": "the weight of the term between logits",
    "maps": "the weight of the term between feature maps",
    "generations": "how many students follow each other",
    "sure": "keep an unlabelled image if the teacher's probability is at least this",
    "patch": "the side of an image patch, in pixels",
    "long": "how many times longer the long schedule is",
    "nets": "a folder of trained networks to measure",
    "lost": "the share of the accuracy that an exit may lose",
    "timed": "how many predictions are timed",
    "views": "how many views the encoder sees of each image",
    "each": "the labelled images of a class, for the last layer",
    "preset": "the KerasHub preset of the encoder",
    "images": "the training images",
    "test": "the test examples",
    "size": "the side of an image, in pixels",
    "files": "the files of each type",
    "bytes": "the bytes that the student reads of each file",
    "labelled": "the rows with a label",
    "unlabelled": "the rows without a label",
}


def add_settings(parser, **settings):
    """Adds an option for each of `{name: default}`; the default gives its type."""
    for name, value in settings.items():
        parser.add_argument(f"--{name}", default=value, type=type(value),
                            help=f"{HELP[name]} (default: {value})")  # fmt: skip
