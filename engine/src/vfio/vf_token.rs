//! VF tokens: who opens a virtual function shows that he is trusted by whoever drives the physical one
//! (`vfio_pci_core_match_token_uuid`).
//!
//! All processes of a run share them: `RUN/tokens/BDF` has the token of a physical function, and an open virtual
//! function shares the lock `vfs-BDF`.

use std::fs;
use std::path::PathBuf;

use swiommu_abi::Errno;

use crate::hostdrv::lock::{self, Lock};
use crate::machine::Bdf;
use crate::pci::function::Function;
use crate::run::Run;

/// A UUID, its bytes in the order in which it is written.
pub type Token = [u8; 16];

/// What an open device file keeps of this: a virtual function's token cannot change unnoticed while it is open.
pub type Admission = Option<Lock>;

/// Characters of a written UUID, and where its dashes are.
const WRITTEN: usize = 36;
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// Reads a UUID.
pub fn parse(text: &str) -> Option<Token> {
    let text = text.as_bytes();
    let in_place = |(at, byte): (usize, &u8)| match DASHES.contains(&at) {
        true => *byte == b'-',
        false => byte.is_ascii_hexdigit(),
    };
    if text.len() != WRITTEN || !text.iter().enumerate().all(in_place) {
        return None;
    }
    let digits: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'-').collect();
    let mut token = Token::default();
    for (byte, pair) in token.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).unwrap_or(0) as u8;
        *byte = digit(0) << 4 | digit(1);
    }
    Some(token)
}

/// Decides whether a function may be opened with this token, or without one.
///
/// A virtual function asks for its physical one's. A physical one asks for it while virtual ones are open; else the
/// token given becomes its token.
///
/// # Errors
/// EACCES: no token or another, where one is asked for. EINVAL: a token where there is none to ask for.
pub fn admit(run: &Run, function: &Function, token: Option<&Token>) -> Result<Admission, Errno> {
    if let Some((physical, _)) = function.config().virtual_of() {
        return admit_virtual(run, physical, token);
    }
    if function.config().total_vfs() == 0 {
        return match token {
            Some(_) => Err(Errno::EINVAL),
            None => Ok(None),
        };
    }
    let physical = function.bdf();
    let _one_at_a_time = Lock::wait(run.dir(), &token_lock(physical))?;
    let in_use = Lock::try_now(run.dir(), &users_lock(physical)).is_err();
    match token {
        _ if in_use && !is_token(run, physical, token) => Err(Errno::EACCES),
        Some(token) if !in_use => store(run, physical, token).map(|()| None),
        _ => Ok(None),
    }
}

fn admit_virtual(run: &Run, physical: Bdf, token: Option<&Token>) -> Result<Admission, Errno> {
    let host = run.host()?;
    let driver = host
        .named(&physical.to_string())
        .and_then(|index| host.driver(index));
    if !driver.is_some_and(|driver| driver.vfio) {
        return match token {
            Some(_) => Err(Errno::EINVAL),
            None => Ok(None),
        };
    }
    let _one_at_a_time = Lock::wait(run.dir(), &token_lock(physical))?;
    if !is_token(run, physical, token) {
        return Err(Errno::EACCES);
    }
    let users = users_lock(physical);
    lock::create(run.dir(), &users)?;
    Lock::share_existing(run.dir(), &users).map(Some)
}

/// Gives a physical function another token, whoever has virtual ones open.
///
/// # Errors
/// EIO when the run's directory is gone.
pub fn set(run: &Run, physical: Bdf, token: &Token) -> Result<(), Errno> {
    let _one_at_a_time = Lock::wait(run.dir(), &token_lock(physical))?;
    store(run, physical, token)
}

/// Until a token is given there is one that nobody knows.
fn is_token(run: &Run, physical: Bdf, token: Option<&Token>) -> bool {
    token.is_some_and(|token| fs::read(file(run, physical)).is_ok_and(|known| known == token))
}

fn store(run: &Run, physical: Bdf, token: &Token) -> Result<(), Errno> {
    let file = file(run, physical);
    let written = fs::create_dir_all(run.dir().join(TOKENS)).and_then(|()| fs::write(file, token));
    written.map_err(|_| Errno::EIO)
}

fn file(run: &Run, physical: Bdf) -> PathBuf {
    run.dir().join(TOKENS).join(physical.to_string())
}

/// Where tokens are kept in the run's directory. A token goes when the driver of its function does.
pub const TOKENS: &str = "tokens";

fn token_lock(physical: Bdf) -> String {
    format!("token-{physical}")
}

fn users_lock(physical: Bdf) -> String {
    format!("vfs-{physical}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_written_as_a_uuid_and_nothing_else_is_one() {
        let token = parse("52ac9bff-3a88-4fbd-901A-0d767c3b6c97").unwrap();
        assert_eq!(token[..4], [0x52, 0xac, 0x9b, 0xff]);
        assert_eq!(token[8..], [0x90, 0x1a, 0x0d, 0x76, 0x7c, 0x3b, 0x6c, 0x97]);
        for bad in [
            "",
            "52ac9bff-3a88-4fbd-901a-0d767c3b6c9",
            "52ac9bff-3a88-4fbd-901a-0d767c3b6c977",
            "52ac9bff-3a88-4fbd-901a-0d767c3b6c9g",
            "52ac9bff03a88-4fbd-901a-0d767c3b6c97",
            "52ac9bff-3a88-4fbd-901a-0d767c3b-c97",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
