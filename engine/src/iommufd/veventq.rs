//! Queues of events that a virtual IOMMU passes on to its guest (`drivers/iommu/iommufd/eventq.c`).
//!
//! Events have sequence numbers. When the queue is full an event is lost, and a header without an event, which is
//! always the last, says so: it goes as soon as another event fits, and its number is missing then.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use swiommu_abi::{Errno, iommufd};
use swiommu_mem::UserAddr;
use zerocopy::IntoBytes;

use super::context::Context;
use super::event::{Readiness, Writable};
use super::file::Command;
use super::inject;
use super::object::{Kind, Object, Ref};
use super::viommu::Viommu;
use crate::door::{Answer, Call, File, NewFile};

const HEADER_BYTES: u64 = size_of::<iommufd::VeventHeader>() as u64;
/// The most events a queue can be made for.
const DEPTH_MOST: u32 = 1 << 19;
/// The highest sequence number.
const SEQUENCE_MOST: u32 = i32::MAX as u32;

struct Event {
    sequence: u32,
    /// `None`: events were lost here.
    data: Option<Box<[u8]>>,
}

impl Event {
    fn bytes(&self) -> u64 {
        HEADER_BYTES + self.data.as_ref().map_or(0, |data| data.len() as u64)
    }

    fn copy_out(&self, call: &Call<'_>, to: UserAddr) -> Result<(), Errno> {
        let header = iommufd::VeventHeader {
            flags: match self.data {
                Some(_) => 0,
                None => iommufd::VEVENTQ_FLAG_LOST_EVENTS,
            },
            sequence: self.sequence,
        };
        let payload = self.data.as_deref().unwrap_or_default();
        let behind = UserAddr(to.0.wrapping_add(HEADER_BYTES));
        let copied = call.client.write(to, header.as_bytes());
        copied
            .and_then(|()| call.client.write(behind, payload))
            .map_err(|_| Errno::EFAULT)
    }
}

struct State {
    events: VecDeque<Event>,
    /// How many of them are events rather than the header of lost ones.
    real: u32,
    next: u32,
    readiness: Readiness,
}

/// The queue itself: the object, its descriptor and the virtual IOMMU share it.
pub struct Queue {
    /// `VEVENTQ_TYPE_*`
    pub kind: u32,
    depth: u32,
    state: Mutex<State>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// An event happened.
    pub fn report(&self, data: &[u8]) {
        let mut state = self.state();
        let fits = state.real < self.depth;
        if state.events.back().is_some_and(|last| last.data.is_none()) {
            state.events.pop_back();
        }
        let event = Event {
            sequence: state.next,
            data: fits.then(|| data.into()),
        };
        state.events.push_back(event);
        state.real += u32::from(fits);
        state.next = (state.next + 1) & SEQUENCE_MOST;
        state.readiness.set(true);
    }

    /// Copies events out as long as whole ones fit.
    fn read(&self, call: &Call<'_>, to: UserAddr, bytes: u64) -> Result<u64, Errno> {
        if bytes < HEADER_BYTES {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state();
        let mut done = 0;
        let mut result = Ok(());
        while let Some(event) = state.events.front() {
            let room = bytes - done;
            if room < event.bytes() {
                if room >= HEADER_BYTES && done == 0 {
                    result = Err(Errno::EINVAL);
                }
                break;
            }
            result = event.copy_out(call, UserAddr(to.0.wrapping_add(done)));
            if result.is_err() {
                break;
            }
            done += event.bytes();
            let real = event.data.is_some();
            state.real -= u32::from(real);
            state.events.pop_front();
        }
        let readable = !state.events.is_empty();
        state.readiness.set(readable);
        if done > 0 {
            Ok(done)
        } else {
            result.map(|()| 0)
        }
    }
}

/// A queue as an object.
pub struct Veventq {
    queue: Arc<Queue>,
    viommu: Ref<Viommu>,
}

impl Object for Veventq {
    fn kind(&self) -> Kind {
        Kind::Veventq
    }
}

impl Drop for Veventq {
    fn drop(&mut self) {
        let mut queues = self.viommu.veventqs.write().unwrap();
        queues.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
    }
}

/// The descriptor of a queue.
struct VeventqFile {
    veventq: Ref<Veventq>,
    _context: Arc<Context>,
}

impl File for VeventqFile {
    fn link(&self) -> String {
        "anon_inode:[iommufd-viommu-event]".into()
    }

    fn ioctl(&self, _: &Call<'_>, _: u32, _: u64) -> Result<Answer, Errno> {
        Err(Errno::ENOTTY)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn pread(&self, call: &Call<'_>, to: UserAddr, bytes: u64, _: u64) -> Result<u64, Errno> {
        self.veventq.queue.read(call, to, bytes)
    }
}

/// IOMMU_VEVENTQ_ALLOC.
pub fn alloc(command: &Command<'_>, cmd: &mut iommufd::VeventqAlloc) -> Result<(), Errno> {
    if cmd.flags != 0 || cmd.reserved != 0 || cmd.kind == iommufd::VEVENTQ_TYPE_DEFAULT {
        return Err(Errno::EOPNOTSUPP);
    }
    if cmd.veventq_depth == 0 || cmd.veventq_depth > DEPTH_MOST {
        return Err(Errno::EINVAL);
    }
    let viommu: Ref<Viommu> = command.context.get(cmd.viommu_id)?;
    let mut queues = viommu.veventqs.write().unwrap();
    if queues.iter().any(|queue| queue.kind == cmd.kind) {
        return Err(Errno::EEXIST);
    }
    let reserved = command.context.reserve()?;
    if inject::fails() {
        return Err(Errno::ENOMEM);
    }
    let (readiness, object) = Readiness::new(Writable::Never)?;
    let queue = Arc::new(Queue {
        kind: cmd.kind,
        depth: cmd.veventq_depth,
        state: Mutex::new(State {
            events: VecDeque::new(),
            real: 0,
            next: 0,
            readiness,
        }),
    });
    cmd.out_veventq_id = reserved.id();
    cmd.out_veventq_fd = command.number(&object)?;
    command.respond(cmd)?;
    queues.push(queue.clone());
    drop(queues);
    let viommu = viommu.hold();
    let veventq = reserved.commit(Veventq { queue, viommu }).hold();
    command.open(NewFile {
        object,
        file: Arc::new(VeventqFile {
            veventq,
            _context: command.context.clone(),
        }),
    });
    Ok(())
}
