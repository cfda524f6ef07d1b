//! What every client test needs: the programs, a scratch directory, runs with a time limit, and reasons to skip.

use libtest_mimic::{Completion, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The user nobody.
const NOBODY: u32 = 65534;

/// Why a test does not pass.
#[derive(Debug)]
pub enum Stop {
    /// It cannot run here.
    Skip(String),
    /// It ran, and something is wrong.
    Fail(String),
}

impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Fail(error.to_string())
    }
}

/// How a test ends.
pub type Outcome = Result<(), Stop>;

/// Fails a test with a message.
pub fn fail<T>(why: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Fail(why.into()))
}

/// A test; its name is a sentence.
pub fn trial(name: impl Into<String>, body: impl Fn() -> Outcome + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || match body() {
        Ok(()) => Ok(Completion::Completed),
        Err(Stop::Skip(why)) => Ok(Completion::ignored_with(why)),
        Err(Stop::Fail(why)) => Err(Failed::from(why)),
    })
}

/// Whether long tests are left out.
pub fn quick() -> bool {
    std::env::var_os("SWIOMMU_TEST_QUICK").is_some()
}

/// A file of the project.
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("cli lies in the workspace")
        .join(path)
}

/// Cargo's target directory.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("tmp lies in target")
        .to_owned()
}

/// Downloaded and built clients.
pub fn clients() -> PathBuf {
    target().join("clients")
}

/// The program under test.
pub fn swiommu() -> &'static str {
    env!("CARGO_BIN_EXE_swiommu")
}

/// A directory for one test, removed at its end.
pub fn scratch() -> Result<tempfile::TempDir, Stop> {
    Ok(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

/// A file of `bytes` zeroes in `directory`.
pub fn blank(directory: &Path, name: &str, bytes: u64) -> Result<PathBuf, Stop> {
    let path = directory.join(name);
    File::create(&path)?.set_len(bytes)?;
    Ok(path)
}

/// A program built by `cargo xtask test`, or the reason to skip.
pub fn built(path: &str, what: &str) -> Result<PathBuf, Stop> {
    let path = clients().join(path);
    if path.exists() {
        Ok(path)
    } else {
        Err(Stop::Skip(format!(
            "{what} is not built; cargo xtask test does"
        )))
    }
}

/// An ordinary user, as whom root runs `program` under swiommu.
pub fn ordinary_user(program: &Path) -> Result<u32, Stop> {
    if !rustix::process::geteuid().is_root() {
        return Err(Stop::Skip("this user is an ordinary one already".into()));
    }
    let mut reach = Command::new("test");
    reach.args(["-x", swiommu(), "-a", "-x"]).arg(program);
    if reach.uid(NOBODY).gid(NOBODY).status()?.success() {
        return Ok(NOBODY);
    }
    let why = "the user nobody cannot reach this directory";
    Err(Stop::Skip(why.into()))
}

/// A fetched set of packages, or the reason to skip.
pub fn set(name: &str) -> Result<PathBuf, Stop> {
    let root = clients().join(name);
    if root.join(".complete").exists() {
        return Ok(root);
    }
    let why = fs::read_to_string(clients().join(format!("{name}.absent")));
    Err(Stop::Skip(why.unwrap_or_else(|_| {
        format!("{name} is not fetched; cargo xtask fetch does")
    })))
}

/// Compiles clients/`name`.c, once per run of the suite.
pub fn compiled(name: &str, options: &[&str]) -> Result<PathBuf, Stop> {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let directory = clients().join("bin");
    fs::create_dir_all(&directory)?;
    let out = directory.join(format!("{}{}", name.replace('/', "-"), options.concat()));
    let source = project("clients").join(format!("{name}.c"));
    if newer(&out, &source)
        && ["client.h", "edu.h", "hot_reset.h", "iommufd.h", "nvme.h"]
            .iter()
            .all(|h| newer(&out, &project("clients").join(h)))
    {
        return Ok(out);
    }
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-O1", "-w", "-pthread", "-o"])
        .arg(&out)
        .arg(source)
        .args(options);
    match cc.output() {
        Err(error) => Err(Stop::Skip(format!("no C compiler: {error}"))),
        Ok(o) if !o.status.success() => fail(String::from_utf8_lossy(&o.stderr).into_owned()),
        Ok(_) => Ok(out),
    }
}

fn newer(a: &Path, b: &Path) -> bool {
    let modified = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
    matches!((modified(a), modified(b)), (Some(a), Some(b)) if a > b)
}

/// `swiommu run` with some options and a program, ready to be started.
pub struct Run {
    options: Vec<OsString>,
    program: Vec<OsString>,
    variables: Vec<(String, String)>,
    limit: Duration,
    user: Option<u32>,
}

/// What a run left behind.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// A run of `program`, without options.
    pub fn new<S: AsRef<OsStr>>(program: impl IntoIterator<Item = S>) -> Run {
        let program = program.into_iter().map(|s| s.as_ref().to_owned()).collect();
        Run {
            options: Vec::new(),
            program,
            variables: Vec::new(),
            limit: Duration::from_secs(180),
            user: None,
        }
    }

    /// Adds options of `swiommu run`.
    pub fn options<S: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = S>) -> Run {
        self.options
            .extend(options.into_iter().map(|s| s.as_ref().to_owned()));
        self
    }

    /// Adds an NVMe on a file.
    pub fn disk(self, image: &Path) -> Run {
        let mut device = OsString::from("nvme,file=");
        device.push(image);
        self.options([OsStr::new("--device"), &device])
    }

    /// Chooses the IOMMU.
    pub fn iommu(self, kind: &str) -> Run {
        self.options(["--iommu", kind])
    }

    /// Sets an environment variable of the program.
    pub fn variable(mut self, name: &str, value: &str) -> Run {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Gives up on it after this time.
    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    /// Runs it as another user.
    pub fn user(mut self, user: u32) -> Run {
        self.user = Some(user);
        self
    }

    /// The command, with the variables that would change its answers removed.
    pub fn command(&self) -> Command {
        let mut command = Command::new(swiommu());
        command
            .arg("run")
            .args(&self.options)
            .arg("--")
            .args(&self.program);
        command
            .env_remove("SWIOMMU_OPTIONS")
            .envs(self.variables.iter().cloned());
        command.process_group(0).stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Runs it to its end, whatever that is.
    pub fn end(self) -> Result<Ended, Stop> {
        let directory = scratch()?;
        let (out, err) = (
            directory.path().join("stdout"),
            directory.path().join("stderr"),
        );
        let mut command = self.command();
        let mut child = command
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()?;
        let status = wait(&mut child, self.limit)?;
        let text = |p: &Path| fs::read(p).map(|b| String::from_utf8_lossy(&b).into_owned());
        let ended = Ended {
            stdout: text(&out)?,
            stderr: text(&err)?,
            status: status.unwrap_or(ExitStatus::from_raw(9)),
        };
        match status {
            Some(_) => Ok(ended),
            None => fail(format!("no end within {:?}\n{}", self.limit, ended.told())),
        }
    }

    /// Runs it to a successful end.
    pub fn success(self) -> Result<Ended, Stop> {
        let ended = self.end()?;
        if ended.status.success() {
            Ok(ended)
        } else {
            fail(ended.told())
        }
    }
}

impl Ended {
    /// All of it, for a failure's message.
    pub fn told(&self) -> String {
        format!(
            "{}\n-- stdout --\n{}\n-- stderr --\n{}",
            self.status,
            tail(&self.stdout),
            tail(&self.stderr)
        )
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Waits for a process group's leader; kills the group and gives `None` when it takes too long.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>, Stop> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            kill(child)?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills a process group that a run started, and waits for its leader.
pub fn kill(child: &mut Child) -> Outcome {
    let group = Pid::from_child(child);
    // It may be gone already.
    let _ = kill_process_group(group, Signal::KILL);
    child.wait()?;
    Ok(())
}

/// Bytes that do not repeat, the same for the same seed.
pub fn random(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// Where two byte strings differ first.
pub fn difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a.len() != b.len() {
        return Some(a.len().min(b.len()));
    }
    a.iter().zip(b).position(|(a, b)| a != b)
}
