//! The client's stack at a call, with `stacks=full`. Captured as addresses, named only when a report shows it.

use std::fmt::{self, Write};
use std::sync::Mutex;

use backtrace::{Backtrace, BacktraceFrame, BacktraceSymbol};

use super::site;

/// A captured stack.
pub struct Stack(Mutex<Backtrace>);

impl Stack {
    /// Captures the calling thread's stack.
    pub fn capture() -> std::sync::Arc<Stack> {
        std::sync::Arc::new(Stack(Mutex::new(Backtrace::new_unresolved())))
    }

    /// The client's frames, innermost first, as `function file:line` or an address, inlined functions each on their
    /// own. They end where the C library took over: at `main` or at the function of a thread.
    pub fn frames(&self) -> Vec<String> {
        let mut trace = self.0.lock().unwrap();
        trace.resolve();
        let ours = trace
            .frames()
            .iter()
            .rposition(is_ours)
            .map_or(0, |at| at + 1);
        trace.frames()[ours..]
            .iter()
            .take_while(|frame| !is_start(frame))
            .flat_map(names)
            .collect()
    }
}

/// Whether a frame belongs to the preloaded library.
fn is_ours(frame: &BacktraceFrame) -> bool {
    frame.symbols().iter().any(|symbol| {
        symbol.name().is_some_and(|name| {
            let name = name.to_string();
            name.starts_with("swiommu") || name.starts_with("<swiommu") || name.contains("swiommu_")
        }) || symbol
            .filename()
            .is_some_and(|file| file.ends_with("libswiommu.so"))
    })
}

/// Whether a frame is of the C library that called the program or one of its threads, or beyond.
fn is_start(frame: &BacktraceFrame) -> bool {
    const STARTS: [&str; 6] = [
        "__libc_start_call_main",
        "__libc_start_main",
        "__libc_start_main_impl",
        "_start",
        "start_thread",
        "clone3",
    ];
    let named = |symbol: &BacktraceSymbol| {
        symbol.name().is_some_and(|name| {
            STARTS.contains(&name.to_string().split('@').next().unwrap_or_default())
        })
    };
    frame.ip().is_null() || frame.symbols().iter().any(named)
}

/// The functions of a frame: what was inlined, innermost first, and what it was inlined into.
fn names(frame: &BacktraceFrame) -> Vec<String> {
    if frame.symbols().is_empty() {
        return vec![site::name(frame.ip() as u64)];
    }
    frame
        .symbols()
        .iter()
        .map(|symbol| name(frame, symbol))
        .collect()
}

fn name(frame: &BacktraceFrame, symbol: &BacktraceSymbol) -> String {
    let mut text = match symbol.name() {
        Some(name) => name.to_string(),
        None => site::name(frame.ip() as u64),
    };
    if let (Some(file), Some(line)) = (symbol.filename(), symbol.lineno()) {
        write!(text, " {}:{line}", file.display()).expect("writing to a string");
    }
    text
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stack")
    }
}
