// The whole library. Depend on single targets and include their headers if you
// need only parts of it.

#ifndef MP_MP_H_
#define MP_MP_H_

#include "mp/ipc/address.h"
#include "mp/ipc/client.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/connection.h"
#include "mp/ipc/joinable_queue.h"
#include "mp/ipc/listener.h"
#include "mp/ipc/pipe.h"
#include "mp/ipc/queue.h"
#include "mp/ipc/simple_queue.h"
#include "mp/ipc/wait.h"
#include "mp/ipc/zero_copy_queue.h"
#include "mp/pool/async_result.h"
#include "mp/pool/pool.h"
#include "mp/pool/worker_died.h"
#include "mp/process/finalizer.h"
#include "mp/process/process.h"
#include "mp/shm/raw_array.h"
#include "mp/shm/raw_value.h"
#include "mp/shm/shared_memory.h"
#include "mp/sync/array.h"
#include "mp/sync/barrier.h"
#include "mp/sync/condition.h"
#include "mp/sync/event.h"
#include "mp/sync/in_place_condition.h"
#include "mp/sync/in_place_event.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/in_place_rlock.h"
#include "mp/sync/in_place_rwlock.h"
#include "mp/sync/in_place_semaphore.h"
#include "mp/sync/lock.h"
#include "mp/sync/rlock.h"
#include "mp/sync/rwlock.h"
#include "mp/sync/semaphore.h"
#include "mp/sync/synchronized.h"
#include "mp/sync/value.h"

#endif  // MP_MP_H_
