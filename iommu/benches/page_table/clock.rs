//! Timing: thread CPU time, pinned threads, medians of interleaved runs.

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// CPU time of one run.
const RUN_NS: f64 = 30e6;

/// Runs per contender, of which the median counts; `--quick` takes fewer.
fn runs() -> usize {
    let quick = std::env::args().any(|argument| argument == "--quick");
    if quick { 3 } else { 9 }
}

/// CPU time of the calling thread in nanoseconds.
pub fn cpu_ns() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// Keeps the calling thread on one processor, if it is allowed to.
pub fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    // On a machine with fewer processors the scheduler decides.
    let _ = sched_setaffinity(None, &set);
}

/// Something to be timed: does `n` operations and says how much CPU time each took.
pub struct Contender<'a> {
    pub name: &'static str,
    pub run: Box<dyn FnMut(u64) -> f64 + 'a>,
}

impl<'a> Contender<'a> {
    /// One that is timed on the calling thread.
    pub fn new(name: &'static str, mut body: impl FnMut(u64) + 'a) -> Self {
        let run = Box::new(move |n| {
            let start = cpu_ns();
            body(n);
            (cpu_ns() - start) / n as f64
        });
        Contender { name, run }
    }
}

/// Median nanoseconds per operation of each contender. The runs take turns, so a slow moment of the
/// machine meets all of them.
pub fn race(contenders: &mut [Contender<'_>]) -> Vec<(&'static str, f64)> {
    let counts: Vec<u64> = contenders
        .iter_mut()
        .map(|contender| {
            let mut n = 2000;
            loop {
                let each = (contender.run)(n);
                if each * n as f64 > RUN_NS / 10.0 {
                    return (RUN_NS / each) as u64;
                }
                n *= 4;
            }
        })
        .collect();
    let mut samples = vec![Vec::new(); contenders.len()];
    let runs = runs();
    for _ in 0..runs {
        for (index, contender) in contenders.iter_mut().enumerate() {
            samples[index].push((contender.run)(counts[index]));
        }
    }
    contenders
        .iter()
        .zip(samples)
        .map(|(contender, mut samples)| {
            samples.sort_by(f64::total_cmp);
            (contender.name, samples[runs / 2])
        })
        .collect()
}
