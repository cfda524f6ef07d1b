//! Calls of the client, numbered: what a report points at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::door::Call;
use crate::machine::options::{Options, Stacks};
use crate::report::stack::Stack;

/// One call: its number over the process's life, its name, the thread and where it came from.
#[derive(Clone, Debug)]
pub struct CallRecord {
    /// 1 is the first call that reached the engine.
    pub number: u64,
    /// The kernel's name of the call.
    pub name: &'static str,
    /// Kernel thread id.
    pub thread: u32,
    /// Return address in the client, 0 if unknown.
    pub site: u64,
    /// The client's stack, with `stacks=full`.
    pub stack: Option<Arc<Stack>>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl CallRecord {
    /// Numbers a call. With `stacks=full` the client's stack is walked and named here.
    pub fn new(call: &Call<'_>, name: &'static str, options: &Options) -> CallRecord {
        CallRecord {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            thread: call.thread,
            site: if options.stacks == Stacks::None {
                0
            } else {
                call.site
            },
            stack: (options.stacks == Stacks::Full).then(Stack::capture),
        }
    }
}
