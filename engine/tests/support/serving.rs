//! What the library does for an engine that others have something to ask: a thread that answers.

use std::path::PathBuf;
use std::sync::{Arc, Once, Weak};
use std::thread;

use swiommu_engine::door::{Engine, Host};
use swiommu_engine::service::{Head, Listener, Wire};

/// Answers for one engine, while it lives.
pub struct Serving {
    run: PathBuf,
    engine: Weak<dyn Engine>,
    started: Once,
}

impl Serving {
    /// Becomes an engine's host.
    pub fn attach(run: PathBuf, engine: &Arc<dyn Engine>) {
        let started = Once::new();
        let serving = Serving {
            run,
            engine: Arc::downgrade(engine),
            started,
        };
        engine.attach(Box::leak(Box::new(serving)));
    }
}

impl Host for Serving {
    fn serve(&self) {
        self.started.call_once(|| {
            let listener = Listener::new(&self.run).expect("a socket");
            let engine = self.engine.clone();
            thread::spawn(move || {
                while let Ok(wire) = listener.accept() {
                    answer(&engine, &wire);
                }
            });
        });
    }
}

/// Answers until the other end goes.
fn answer(engine: &Weak<dyn Engine>, wire: &Wire) {
    while let Some(asked) = wire.receive()
        && let Some(engine) = engine.upgrade()
    {
        let answer = engine.message(asked.head.args[0] as u32, &asked.body);
        let (op, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (errno.raw() as u32, Vec::new()),
        };
        let head = Head {
            op,
            ..Head::default()
        };
        let _ = wire.send(&head, &body, &[]);
    }
}
