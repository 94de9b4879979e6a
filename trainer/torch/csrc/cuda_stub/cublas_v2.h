// Stands in for cuBLAS: libtorch's headers name these types and use nothing of them. A CUDA toolkit's own header wins.
#pragma once
typedef struct cublasContext* cublasHandle_t;
typedef int cublasStatus_t;
