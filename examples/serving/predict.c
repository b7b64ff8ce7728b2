/* Runs a SavedModel without Python. It reads floats from a file and prints those of the output.

   P=$(python -c "import tensorflow as tf; print(tf.sysconfig.get_lib())")
   gcc predict.c -o predict -I$P/include -L$P -l:libtensorflow_cc.so.2 \
       -l:libtensorflow_framework.so.2 -Wl,-rpath,$P
   ./predict served/student/1 serving_default_image:0 StatefulPartitionedCall:0 in.f32 8 8 1

   `saved_model_cli show --dir served/student/1 --tag_set serve --signature_def serving_default`
   prints the names of the tensors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static TF_Status* status;

static void check(const char* what) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s: %s\n", what, TF_Message(status));
    exit(1);
  }
}

static TF_Output tensor(TF_Graph* graph, const char* name) {
  char operation[512];
  const char* colon = strrchr(name, ':');
  int length = colon ? (int)(colon - name) : (int)strlen(name);
  snprintf(operation, sizeof operation, "%.*s", length, name);
  TF_Output found = {TF_GraphOperationByName(graph, operation), colon ? atoi(colon + 1) : 0};
  if (!found.oper) {
    fprintf(stderr, "The model has no operation %s.\n", operation);
    exit(1);
  }
  return found;
}

int main(int count, char** words) {
  if (count < 6) {
    fprintf(stderr, "usage: predict FOLDER INPUT OUTPUT FILE SIZE...\n");
    return 2;
  }
  FILE* file = fopen(words[4], "rb");
  if (!file) {
    perror(words[4]);
    return 1;
  }
  int64_t shape[8], one = 1;
  int rank = 1;
  for (int i = 5; i < count && rank < 8; i++) one *= shape[rank++] = atoll(words[i]);
  fseek(file, 0, SEEK_END);
  long bytes = ftell(file);
  rewind(file);
  shape[0] = bytes / (long)sizeof(float) / one;

  status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session =
      TF_LoadSessionFromSavedModel(options, NULL, words[1], tags, 1, graph, NULL, status);
  check("loading");
  TF_Tensor* given = TF_AllocateTensor(TF_FLOAT, shape, rank, bytes);
  if (fread(TF_TensorData(given), 1, bytes, file) != (size_t)bytes) return 1;
  fclose(file);
  TF_Output input = tensor(graph, words[2]), output = tensor(graph, words[3]);
  TF_Tensor* got = NULL;
  TF_SessionRun(session, NULL, &input, &given, 1, &output, &got, 1, NULL, 0, NULL, status);
  check("running");
  const float* values = TF_TensorData(got);
  int64_t rows = TF_Dim(got, 0), columns = TF_TensorElementCount(got) / rows;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++)
      printf("%.9g%c", values[i * columns + j], j + 1 < columns ? ' ' : '\n');
  TF_DeleteTensor(given);
  TF_DeleteTensor(got);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteGraph(graph);
  TF_DeleteSessionOptions(options);
  TF_DeleteStatus(status);
  return 0;
}
