//! Fault queues: page requests that the client answers (`drivers/iommu/iommufd/eventq.c`).
//!
//! A device that gets no translation asks for the page: a *group* of requests, answered as one. A group waits to be
//! read, and once read has a cookie by which the client answers it. When what the device was attached to goes, or the
//! queue, every group of it is answered as invalid.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use swiommu_abi::{Errno, iommufd};
use swiommu_mem::UserAddr;
use zerocopy::IntoBytes;

use super::context::Context;
use super::event::{Readiness, Writable};
use super::file::Command;
use super::inject;
use super::object::{Kind, Object, Ref};
use crate::door::{Answer, Call, File, NewFile};

const FAULT_BYTES: u64 = size_of::<iommufd::HwptPgfault>() as u64;
const RESPONSE_BYTES: u64 = size_of::<iommufd::HwptPageResponse>() as u64;

/// One page request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// `PGFAULT_FLAGS_*`
    pub flags: u32,
    /// The PASID, 0 for none.
    pub pasid: u32,
    /// Page request group.
    pub group: u32,
    /// `PGFAULT_PERM_*`
    pub perm: u32,
    /// The address.
    pub addr: u64,
}

/// What becomes of a group of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The pages are there: the device tries again.
    Success,
    /// They are not, and will not be.
    Invalid,
}

/// Requests that are answered as one.
pub struct Group {
    /// The device's id.
    pub device: u32,
    /// Which attachment of the device it came through.
    pub attachment: u64,
    /// The requests, the last one last.
    pub requests: Vec<PageRequest>,
    /// Tells the device. Called once, without locks of the queue.
    pub respond: Box<dyn FnOnce(Response) + Send>,
}

impl Group {
    fn bytes(&self) -> u64 {
        self.requests.len() as u64 * FAULT_BYTES
    }
}

struct State {
    /// To be read.
    deliver: VecDeque<Group>,
    /// Read and not answered, by cookie.
    waiting: BTreeMap<u32, Group>,
    readiness: Readiness,
}

impl State {
    /// The lowest free cookie, from 1.
    fn cookie(&self) -> u32 {
        let taken = self.waiting.keys().copied();
        (1..)
            .zip(taken.map(Some).chain(std::iter::repeat(None)))
            .find(|(free, taken)| Some(*free) != *taken)
            .map_or(0, |(free, _)| free)
    }

    fn update(&mut self) {
        let readable = !self.deliver.is_empty();
        self.readiness.set(readable);
    }
}

/// A fault queue.
pub struct FaultQueue {
    state: Mutex<State>,
}

impl FaultQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A device asks for pages.
    pub fn deliver(&self, group: Group) {
        let mut state = self.state();
        state.deliver.push_back(group);
        state.update();
    }

    /// An attachment is gone: what came through it is answered as invalid.
    pub fn forget(&self, attachment: u64) {
        let mut gone = Vec::new();
        {
            let mut state = self.state();
            let (of_it, others): (Vec<_>, Vec<_>) = std::mem::take(&mut state.deliver)
                .into_iter()
                .partition(|group| group.attachment == attachment);
            state.deliver = others.into();
            gone.extend(of_it);
            let cookies: Vec<u32> = (state.waiting.iter())
                .filter(|(_, group)| group.attachment == attachment)
                .map(|(cookie, _)| *cookie)
                .collect();
            gone.extend(cookies.iter().filter_map(|c| state.waiting.remove(c)));
            state.update();
        }
        for group in gone {
            (group.respond)(Response::Invalid);
        }
    }

    /// Copies groups out as long as whole ones fit.
    fn read(&self, call: &Call<'_>, to: UserAddr, bytes: u64) -> Result<u64, Errno> {
        if !bytes.is_multiple_of(FAULT_BYTES) {
            return Err(Errno::ESPIPE);
        }
        let mut state = self.state();
        let mut done = 0;
        let result = loop {
            let Some(group) = state.deliver.front() else {
                break Ok(());
            };
            if group.bytes() > bytes - done {
                // A first group that does not fit is told; a later one waits for the next read.
                break if done == 0 {
                    Err(Errno::EINVAL)
                } else {
                    Ok(())
                };
            }
            let cookie = state.cookie();
            if let Err(error) = copy_out(call, UserAddr(to.0.wrapping_add(done)), group, cookie) {
                break Err(error);
            }
            done += group.bytes();
            if let Some(group) = state.deliver.pop_front() {
                state.waiting.insert(cookie, group);
            }
        };
        state.update();
        if done > 0 {
            Ok(done)
        } else {
            result.map(|()| 0)
        }
    }

    /// Takes answers in until one is wrong.
    fn write(&self, call: &Call<'_>, from: UserAddr, bytes: u64) -> Result<u64, Errno> {
        if !bytes.is_multiple_of(RESPONSE_BYTES) {
            return Err(Errno::ESPIPE);
        }
        let mut done = 0;
        while done < bytes {
            match self.answer(call, UserAddr(from.0.wrapping_add(done))) {
                Ok((group, response)) => (group.respond)(response),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += RESPONSE_BYTES;
        }
        Ok(done)
    }

    fn answer(&self, call: &Call<'_>, at: UserAddr) -> Result<(Group, Response), Errno> {
        let answer: iommufd::HwptPageResponse =
            call.client.read_obj(at).map_err(|_| Errno::EFAULT)?;
        let response = match answer.code {
            iommufd::PAGE_RESP_SUCCESS => Response::Success,
            iommufd::PAGE_RESP_INVALID => Response::Invalid,
            _ => return Err(Errno::EINVAL),
        };
        let group = self.state().waiting.remove(&answer.cookie);
        Ok((group.ok_or(Errno::EINVAL)?, response))
    }
}

fn copy_out(call: &Call<'_>, to: UserAddr, group: &Group, cookie: u32) -> Result<(), Errno> {
    for (index, request) in group.requests.iter().enumerate() {
        let fault = iommufd::HwptPgfault {
            flags: request.flags,
            dev_id: group.device,
            pasid: request.pasid,
            grpid: request.group,
            perm: request.perm,
            addr: request.addr,
            cookie,
            ..Default::default()
        };
        let at = to.0.wrapping_add(index as u64 * FAULT_BYTES);
        let copied = call.client.write(UserAddr(at), fault.as_bytes());
        copied.map_err(|_| Errno::EFAULT)?;
    }
    Ok(())
}

impl Object for FaultQueue {
    fn kind(&self) -> Kind {
        Kind::Fault
    }
}

impl Drop for FaultQueue {
    fn drop(&mut self) {
        let Ok(state) = self.state.get_mut() else {
            return;
        };
        let waiting = std::mem::take(&mut state.waiting).into_values();
        for group in state.deliver.drain(..).chain(waiting) {
            (group.respond)(Response::Invalid);
        }
    }
}

/// The descriptor of a fault queue.
struct FaultFile {
    queue: Ref<FaultQueue>,
    _context: Arc<Context>,
}

impl File for FaultFile {
    fn link(&self) -> String {
        "anon_inode:[iommufd-pgfault]".into()
    }

    fn ioctl(&self, _: &Call<'_>, _: u32, _: u64) -> Result<Answer, Errno> {
        Err(Errno::ENOTTY)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn pread(&self, call: &Call<'_>, to: UserAddr, bytes: u64, _: u64) -> Result<u64, Errno> {
        self.queue.read(call, to, bytes)
    }

    fn pwrite(&self, call: &Call<'_>, from: UserAddr, bytes: u64, _: u64) -> Result<u64, Errno> {
        self.queue.write(call, from, bytes)
    }
}

/// IOMMU_FAULT_QUEUE_ALLOC.
pub fn alloc(command: &Command<'_>, cmd: &mut iommufd::FaultQueueAlloc) -> Result<(), Errno> {
    if cmd.flags != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let reserved = command.context.reserve()?;
    if inject::fails() {
        return Err(Errno::ENOMEM);
    }
    let (readiness, object) = Readiness::new(Writable::Always)?;
    let queue = FaultQueue {
        state: Mutex::new(State {
            deliver: VecDeque::new(),
            waiting: BTreeMap::new(),
            readiness,
        }),
    };
    cmd.out_fault_id = reserved.id();
    cmd.out_fault_fd = command.number(&object)?;
    command.respond(cmd)?;
    let queue = reserved.commit(queue).hold();
    command.open(NewFile {
        object,
        file: Arc::new(FaultFile {
            queue,
            _context: command.context.clone(),
        }),
    });
    Ok(())
}
