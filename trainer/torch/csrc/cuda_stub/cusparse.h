// As cublas_v2.h here.
#pragma once
typedef struct cusparseContext* cusparseHandle_t;
