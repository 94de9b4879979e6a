// As cublas_v2.h here.
#pragma once
typedef struct cusolverDnContext* cusolverDnHandle_t;
