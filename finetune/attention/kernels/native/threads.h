/* Tasks on several threads, with any C compiler: on torch's pool, or on threads that a call makes for itself.
 *
 * Not by "#pragma omp parallel": a compiler calls the runtime of its own maker for that, and what clang calls
 * is not in the libgomp that comes with torch; a second runtime would be a second pool of threads.
 * GOMP_parallel is in libgomp, in LLVM's runtime and in Intel's, whichever torch has loaded. Where none is
 * loaded, and in a process that was forked, a call makes its threads and ends them: a pool's threads stay
 * behind in the parent, and who waits for them waits for ever.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>

enum { MOST_THREADS = 1024 };

typedef void (*Worker)(void *job);   /* takes tasks of a Job until there are none */
typedef void (*Parallel)(Worker, void *, unsigned threads, unsigned flags);

typedef struct {
    const void *call;
    Worker worker;
    int64_t tasks, next;             /* next: the first task that nobody has taken */
    int failed;
} Job;

/* The number of a task that is the caller's alone; job->tasks or more where there is none left. */
static int64_t next_task(Job *job) { return __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED); }

static void fail(Job *job) { __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED); }

static void *work_on(void *job) {
    ((Job *)job)->worker(job);
    return NULL;
}

static void run_on_own_threads(Job *job, int64_t threads) {
    pthread_t made[MOST_THREADS];
    int64_t count = 0;
    while (count < threads - 1 && !pthread_create(&made[count], NULL, work_on, job)) count++;
    job->worker(job);
    while (count > 0) pthread_join(made[--count], NULL);
}

/* Runs the job on at most so many threads; fewer do all tasks too. Returns whether one of them failed. */
static int run_job(Job *job, int64_t threads, int forked) {
    const Parallel pool = forked ? NULL : (Parallel)dlsym(RTLD_DEFAULT, "GOMP_parallel");
    threads = threads < job->tasks ? threads : job->tasks;
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    if (threads <= 1)
        job->worker(job);
    else if (pool)
        pool(job->worker, job, (unsigned)threads, 0);
    else
        run_on_own_threads(job, threads);
    return job->failed;
}
