// Rows that are computed one by one, in the same order whatever the number of threads.

#ifndef TINSMITH_ROWS_H
#define TINSMITH_ROWS_H

#define EACH(i, count)                                                                                                 \
    _Pragma("omp parallel for num_threads(threads) if (threads > 1)") for (int64_t i = 0; i < (count); i++)

#endif
