//! QEMU's machine protocol (QMP) on a program's standard streams.

use crate::world::*;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long one answer or event may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A running program that was started with `-qmp stdio`. Killed when dropped.
pub struct Monitor {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    errors: File,
}

impl Monitor {
    /// Starts the program and waits until it takes commands.
    pub fn start(run: &Run) -> Result<Monitor, Stop> {
        let errors = tempfile::tempfile()?;
        let mut command = run.command();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?)
            .spawn()?;
        let to = child.stdin.take().expect("it was piped");
        let lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
        let (sender, from) = channel();
        // Ends with the stream, at the latest when the program is killed.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = serde_json::from_str(&line).map(|value| sender.send(value));
            }
        });
        let mut monitor = Monitor {
            child,
            to,
            from,
            errors,
        };
        monitor.until(|message| message.get("QMP").is_some())?;
        monitor.command("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Sends a command; its answer, or the error's text as a failure.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value, Stop> {
        let answer = self.try_command(name, arguments)?;
        answer.or_else(|error| fail(format!("{name}: {error}")))
    }

    /// Sends a command that may be refused.
    pub fn try_command(
        &mut self,
        name: &str,
        arguments: Value,
    ) -> Result<Result<Value, String>, Stop> {
        writeln!(
            self.to,
            "{}",
            json!({ "execute": name, "arguments": arguments })
        )?;
        let answer = self.until(|m| m.get("return").is_some() || m.get("error").is_some())?;
        Ok(match answer.get("error") {
            Some(error) => Err(error["desc"].as_str().unwrap_or_default().to_owned()),
            None => Ok(answer["return"].clone()),
        })
    }

    /// Waits for an event.
    pub fn event(&mut self, name: &str) -> Result<Value, Stop> {
        self.until(|message| message["event"] == name)
    }

    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value, Stop> {
        loop {
            match self.from.recv_timeout(LIMIT) {
                Ok(message) if wanted(&message) => return Ok(message),
                Ok(_) => {}
                Err(_) => return fail(format!("the monitor does not answer\n{}", self.errors())),
            }
        }
    }

    /// What the program wrote to standard error.
    fn errors(&mut self) -> String {
        let mut text = Vec::new();
        let read = self
            .errors
            .rewind()
            .and_then(|()| self.errors.read_to_end(&mut text));
        read.map_or_else(
            |e| e.to_string(),
            |_| String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Waits for the program's successful end.
    pub fn end(mut self) -> Outcome {
        match wait(&mut self.child, LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => fail(format!("{status}\n{}", self.errors())),
            None => fail(format!("no end\n{}", self.errors())),
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = kill(&mut self.child);
    }
}
