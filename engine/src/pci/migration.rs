//! The migration states of a device, the way between them, and the transfer of its state (`include/uapi/linux/vfio.h`).
//!
//! A transfer is a sequence of records. Each holds the whole state; all but the last were made while the device ran
//! and say how much there will be. Only the last one counts.

use swiommu_abi::vfio;

use super::Bus;
use super::codec::{BadState, Reader, Writer};

/// A migration state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Only a reset leads out.
    Error,
    /// The device does nothing.
    Stop,
    /// It works.
    #[default]
    Running,
    /// As `Stop`, and its state can be read.
    StopCopy,
    /// As `Stop`, and a state can be written.
    Resuming,
    /// It begins no DMA.
    RunningP2p,
    /// As `Running`, and its state can be read as far as it is.
    PreCopy,
    /// As `RunningP2p`, and its state can be read as far as it is.
    PreCopyP2p,
}

/// What a device does in a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// Everything.
    #[default]
    Running,
    /// It takes register accesses, and begins neither DMA nor interrupts.
    Quiet,
    /// Nothing.
    Stopped,
}

impl State {
    /// All, in the order of their numbers.
    pub const ALL: [State; 8] = [
        State::Error,
        State::Stop,
        State::Running,
        State::StopCopy,
        State::Resuming,
        State::RunningP2p,
        State::PreCopy,
        State::PreCopyP2p,
    ];

    /// The state of a number.
    pub fn of_number(number: u32) -> Option<State> {
        State::ALL.get(number as usize).copied()
    }

    /// Its number, `DEVICE_STATE_*`.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// What the device does in it.
    pub fn pace(self) -> Pace {
        match self {
            State::Running | State::PreCopy => Pace::Running,
            State::RunningP2p | State::PreCopyP2p => Pace::Quiet,
            _ => Pace::Stopped,
        }
    }

    /// The device's state is being read.
    pub fn is_saving(self) -> bool {
        matches!(self, State::StopCopy | State::PreCopy | State::PreCopyP2p)
    }

    /// The device runs and its state is being read.
    pub fn is_pre_copy(self) -> bool {
        matches!(self, State::PreCopy | State::PreCopyP2p)
    }

    fn exists(self, features: u64) -> bool {
        let needs = match self {
            State::PreCopy => vfio::MIGRATION_PRE_COPY,
            State::RunningP2p => vfio::MIGRATION_P2P,
            State::PreCopyP2p => vfio::MIGRATION_PRE_COPY | vfio::MIGRATION_P2P,
            _ => 0,
        };
        features & needs == needs
    }
}

/// The single steps of a device that has everything.
const ARCS: [(State, State); 15] = {
    use State::*;
    [
        (Running, RunningP2p),
        (RunningP2p, Running),
        (RunningP2p, Stop),
        (Stop, RunningP2p),
        (Stop, StopCopy),
        (StopCopy, Stop),
        (Stop, Resuming),
        (Resuming, Stop),
        (Running, PreCopy),
        (PreCopy, Running),
        (RunningP2p, PreCopyP2p),
        (PreCopyP2p, RunningP2p),
        (PreCopy, PreCopyP2p),
        (PreCopyP2p, PreCopy),
        (PreCopyP2p, StopCopy),
    ]
};

/// The single steps of one without the quiet states.
const ARCS_WITHOUT_P2P: [(State, State); 9] = {
    use State::*;
    [
        (Running, Stop),
        (Stop, Running),
        (Stop, StopCopy),
        (StopCopy, Stop),
        (Stop, Resuming),
        (Resuming, Stop),
        (Running, PreCopy),
        (PreCopy, Running),
        (PreCopy, StopCopy),
    ]
};

/// The steps that lead from one state to another, without the first: the shortest way on which no state is read in
/// between. From reading to reading it is the same transfer, so the way stays among those states. `None`: there is
/// none, or the device does not have the state.
pub fn way(features: u64, from: State, to: State) -> Option<Vec<State>> {
    if [from, to].contains(&State::Error) || !from.exists(features) || !to.exists(features) {
        return None;
    }
    let arcs = match features & vfio::MIGRATION_P2P {
        0 => &ARCS_WITHOUT_P2P[..],
        _ => &ARCS[..],
    };
    let inside = from.is_saving() && to.is_saving();
    let mut ways = vec![vec![from]];
    while !ways.is_empty() {
        if let Some(way) = ways.iter().find(|way| way.last() == Some(&to)) {
            return Some(way[1..].to_vec());
        }
        let longer = |way: &Vec<State>| {
            let (way, last) = (way.clone(), way[way.len() - 1]);
            arcs.iter()
                .filter(move |arc| arc.0 == last)
                .map(|arc| arc.1)
                .filter(|next| next.exists(features) && (*next == to || next.is_saving() == inside))
                .filter(|next| !way.contains(next))
                .map(|next| [&way[..], &[next]].concat())
                .collect::<Vec<_>>()
        };
        ways = ways.iter().flat_map(longer).collect();
    }
    None
}

/// A model that migrates.
pub trait Migrate {
    /// `MIGRATION_*`
    fn features(&self) -> u64;
    /// From now on the device does this much. What waited for it to run is done now.
    ///
    /// # Errors
    /// The device cannot be brought to rest: its medium fails.
    fn set_pace(&mut self, bus: &mut dyn Bus, pace: Pace) -> Result<(), BadState>;
    /// A number that is another one whenever the state may be another one.
    fn changes(&self) -> u64;
    /// Writes the state.
    fn save(&self, to: &mut Writer);
    /// Takes a state, wholly or not at all. The device is stopped.
    ///
    /// # Errors
    /// It is not the state of such a device.
    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), BadState>;
}

/// The first bytes of a record.
const MAGIC: u64 = u64::from_le_bytes(*b"swiommu\n");
/// The version of what follows.
const VERSION: u16 = 1;
/// Bytes of a record before its state.
const HEAD: usize = 16;
/// The most a transfer may have.
pub const TRANSFER_MOST: usize = 16 << 20;

/// Makes a record of a state.
pub fn record(state: &[u8], last: bool) -> Vec<u8> {
    let mut to = Writer::default();
    to.u64(MAGIC);
    to.u16(VERSION);
    to.u16(u16::from(last));
    to.u32(state.len() as u32);
    to.bytes(state);
    to.into_bytes()
}

/// Bytes of a record of a state of that many bytes.
pub fn record_bytes(state: usize) -> u64 {
    (HEAD + state) as u64
}

/// The last record's state of a whole transfer.
///
/// # Errors
/// It is no whole transfer, or one of another version.
pub fn last_state(transfer: &[u8]) -> Result<&[u8], BadState> {
    let mut from = Reader::new(transfer);
    loop {
        if from.u64()? != MAGIC || from.u16()? != VERSION {
            return Err(BadState);
        }
        let last = from.bool16()?;
        let bytes = from.u32()? as usize;
        let state = from.bytes(bytes)?;
        if last {
            from.end()?;
            return Ok(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::State::*;
    use super::*;

    const ALL: u64 = vfio::MIGRATION_STOP_COPY | vfio::MIGRATION_P2P | vfio::MIGRATION_PRE_COPY;

    /// The longer ways of a device that has everything, as the comment above `vfio_mig_get_next_state` lists them.
    const LONGER: [&[State]; 25] = [
        &[PreCopy, PreCopyP2p, StopCopy],
        &[PreCopy, Running, RunningP2p],
        &[PreCopy, Running, RunningP2p, Stop],
        &[PreCopy, Running, RunningP2p, Stop, Resuming],
        &[PreCopyP2p, RunningP2p, Running],
        &[PreCopyP2p, RunningP2p, Stop],
        &[PreCopyP2p, RunningP2p, Stop, Resuming],
        &[Resuming, Stop, RunningP2p],
        &[Resuming, Stop, RunningP2p, PreCopyP2p],
        &[Resuming, Stop, RunningP2p, Running],
        &[Resuming, Stop, RunningP2p, Running, PreCopy],
        &[Resuming, Stop, StopCopy],
        &[Running, RunningP2p, PreCopyP2p],
        &[Running, RunningP2p, Stop],
        &[Running, RunningP2p, Stop, Resuming],
        &[Running, RunningP2p, Stop, StopCopy],
        &[RunningP2p, Running, PreCopy],
        &[RunningP2p, Stop, Resuming],
        &[RunningP2p, Stop, StopCopy],
        &[Stop, RunningP2p, PreCopyP2p],
        &[Stop, RunningP2p, Running],
        &[Stop, RunningP2p, Running, PreCopy],
        &[StopCopy, Stop, Resuming],
        &[StopCopy, Stop, RunningP2p],
        &[StopCopy, Stop, RunningP2p, Running],
    ];

    fn expected(from: State, to: State) -> Option<Vec<State>> {
        let blocked = from == StopCopy && to.is_pre_copy();
        let error = from == Error || to == Error;
        if from == to && !error {
            return Some(vec![]);
        }
        let longer = LONGER
            .iter()
            .find(|way| way[0] == from && way[way.len() - 1] == to);
        let single = ARCS.contains(&(from, to)).then(|| vec![to]);
        (!blocked && !error)
            .then(|| longer.map(|way| way[1..].to_vec()).or(single))
            .flatten()
    }

    #[test]
    fn a_device_with_everything_goes_the_ways_that_the_kernel_lists() {
        for from in State::ALL {
            for to in State::ALL {
                assert_eq!(way(ALL, from, to), expected(from, to), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn states_that_a_device_does_not_have_are_stepped_over() {
        for features in [1, 3, 5] {
            for from in State::ALL
                .into_iter()
                .filter(|state| state.exists(features))
            {
                for to in State::ALL
                    .into_iter()
                    .filter(|state| state.exists(features))
                {
                    let without = way(ALL, from, to).map(|way| {
                        way.into_iter()
                            .filter(|step| step.exists(features))
                            .collect()
                    });
                    assert_eq!(
                        way(features, from, to),
                        without,
                        "{features}: {from:?} to {to:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn states_that_a_device_does_not_have_cannot_be_asked_for() {
        assert_eq!(way(1, Running, RunningP2p), None);
        assert_eq!(way(1, Running, PreCopy), None);
        assert_eq!(way(3, Running, PreCopyP2p), None);
        assert_eq!(way(5, Running, PreCopyP2p), None);
        assert_eq!(way(5, Running, PreCopy), Some(vec![PreCopy]));
    }

    #[test]
    fn only_a_whole_transfer_has_a_state() {
        let transfer = [record(b"early", false), record(b"late", true)].concat();
        assert_eq!(last_state(&transfer), Ok(&b"late"[..]));
        for bytes in 0..transfer.len() {
            assert_eq!(last_state(&transfer[..bytes]), Err(BadState), "{bytes}");
        }
        let more = [&transfer[..], b"x"].concat();
        assert_eq!(last_state(&more), Err(BadState));
        let mut other = transfer.clone();
        other[8] = 2;
        assert_eq!(last_state(&other), Err(BadState), "another version");
    }
}
