//! SET and GET FEATURES, sections 5.14, 5.21. Nothing is saveable: "saved" is the default.

use super::Nvme;
use super::bits::{ALL_NAMESPACES, Done, Sqe, Status};
use super::event::Event;
use super::identify::{TEMPERATURE, WARNING_TEMPERATURE};
use crate::pci::Bus;
use std::time::{Duration, Instant};

/// Feature identifiers, figure 276.
const ARBITRATION: u8 = 0x01;
const POWER_MANAGEMENT: u8 = 0x02;
const TEMPERATURE_THRESHOLD: u8 = 0x04;
const ERROR_RECOVERY: u8 = 0x05;
const VOLATILE_WRITE_CACHE: u8 = 0x06;
const NUMBER_OF_QUEUES: u8 = 0x07;
const ASYNC_EVENT_CONFIGURATION: u8 = 0x0b;
const KEEP_ALIVE_TIMER: u8 = 0x0f;

/// The asynchronous events that can be configured and that this controller can have: the temperature warning.
const EVENTS: u32 = 1 << 1;
/// Keep alive granularity KAS: in milliseconds.
pub(super) const KEEP_ALIVE_UNIT_MS: u32 = 100;

/// The current values.
#[derive(Clone, Debug)]
pub(super) struct Features {
    pub arbitration: u32,
    pub over_temperature: u16,
    pub under_temperature: u16,
    /// Error recovery: the time limit, one for all namespaces.
    pub error_recovery: u32,
    pub write_cache: bool,
    pub events: u32,
    /// KATO in milliseconds and the last sign of life.
    keep_alive: Option<(u32, Instant)>,
}

impl Features {
    /// The defaults.
    pub fn new(has_cache: bool) -> Features {
        Features {
            // 5.21.1.1: no limit on the arbitration burst.
            arbitration: 7,
            over_temperature: WARNING_TEMPERATURE,
            under_temperature: 0,
            error_recovery: 0,
            write_cache: has_cache,
            events: 0,
            keep_alive: None,
        }
    }

    pub fn keep_alive_ms(&self) -> u32 {
        self.keep_alive.map_or(0, |(ms, _)| ms)
    }

    /// KATO in milliseconds, 0 = off.
    pub fn set_keep_alive(&mut self, ms: u32) {
        self.keep_alive = (ms != 0).then(|| (ms, Instant::now()));
    }

    pub fn kick_keep_alive(&mut self) {
        if let Some((_, last)) = &mut self.keep_alive {
            *last = Instant::now();
        }
    }

    pub fn keep_alive_expired(&self) -> bool {
        self.keep_alive
            .is_some_and(|(ms, last)| last.elapsed() > Duration::from_millis(ms.into()))
    }

    /// The composite temperature is outside its thresholds.
    pub fn is_too_hot(&self) -> bool {
        TEMPERATURE >= self.over_temperature || TEMPERATURE <= self.under_temperature
    }

    fn value(&self, id: u8, sqe: &Sqe, queues: u16) -> Done<u32> {
        Ok(match id {
            ARBITRATION => self.arbitration,
            POWER_MANAGEMENT => 0,
            TEMPERATURE_THRESHOLD => match threshold_of(sqe)? {
                Threshold::Over => u32::from(self.over_temperature),
                Threshold::Under => u32::from(self.under_temperature),
            },
            ERROR_RECOVERY => self.error_recovery,
            VOLATILE_WRITE_CACHE => u32::from(self.write_cache),
            NUMBER_OF_QUEUES => u32::from(queues - 1) * 0x1_0001,
            ASYNC_EVENT_CONFIGURATION => self.events,
            KEEP_ALIVE_TIMER => self.keep_alive_ms(),
            _ => return Err(Status::INVALID_FIELD),
        })
    }
}

enum Threshold {
    Over,
    Under,
}

/// 5.21.1.4: only the composite temperature (TMPSEL 0, or 15 for all sensors) has thresholds.
fn threshold_of(sqe: &Sqe) -> Done<Threshold> {
    match (sqe.dw(11) >> 16 & 0xf, sqe.dw(11) >> 20 & 3) {
        (0 | 15, 0) => Ok(Threshold::Over),
        (0 | 15, 1) => Ok(Threshold::Under),
        _ => Err(Status::INVALID_FIELD),
    }
}

impl Nvme {
    pub(super) fn get_features(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Done<u32> {
        let id = sqe.dw(10) as u8;
        self.check_feature(bus, id)?;
        if id == ERROR_RECOVERY {
            self.check_feature_namespace(sqe)?;
        }
        match sqe.dw(10) >> 8 & 7 {
            0 => self.features.value(id, sqe, self.queues),
            1 | 2 => Features::new(self.has_cache).value(id, sqe, self.queues),
            // Figure 174: bit 1 namespace specific, bit 2 changeable.
            3 => Ok(match id {
                ERROR_RECOVERY => 0b110,
                _ => 0b100,
            }),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    pub(super) fn set_features(&mut self, bus: &mut dyn Bus, sqe: &Sqe) -> Done<u32> {
        let (id, value) = (sqe.dw(10) as u8, sqe.dw(11));
        self.check_feature(bus, id)?;
        if sqe.dw(10) >> 31 != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        match id {
            ERROR_RECOVERY => self.check_feature_namespace(sqe)?,
            // 5.21 wants no namespace here, but QEMU's driver names its own, and drives accept that.
            VOLATILE_WRITE_CACHE => {}
            _ if sqe.nsid != 0 && sqe.nsid != ALL_NAMESPACES => {
                self.namespace_index(sqe.nsid)?;
                return Err(Status::FEATURE_NOT_NS_SPECIFIC);
            }
            _ => {}
        }
        match id {
            ARBITRATION => self.features.arbitration = value & 0xffff_ff07,
            // One power state (NPSS = 0).
            POWER_MANAGEMENT if value & 0x1f != 0 => return Err(Status::INVALID_FIELD),
            POWER_MANAGEMENT => {}
            TEMPERATURE_THRESHOLD => {
                match threshold_of(sqe)? {
                    Threshold::Over => self.features.over_temperature = value as u16,
                    Threshold::Under => self.features.under_temperature = value as u16,
                }
                self.warn_if_too_hot();
            }
            // 5.21.1.5: DULBE only where the namespace reports support for it.
            ERROR_RECOVERY if value & 1 << 16 != 0 => return Err(Status::INVALID_FIELD),
            ERROR_RECOVERY => self.features.error_recovery = value & 0xffff,
            VOLATILE_WRITE_CACHE => self.set_write_cache(value & 1 != 0)?,
            NUMBER_OF_QUEUES => return self.set_number_of_queues(value),
            ASYNC_EVENT_CONFIGURATION => {
                self.features.events = value & EVENTS;
                if value & !EVENTS != 0 {
                    bus.unmodelled(format_args!(
                        "NVMe: asynchronous events {:#x} never happen",
                        value & !EVENTS
                    ));
                }
                self.warn_if_too_hot();
            }
            KEEP_ALIVE_TIMER => {
                // 5.21.1.15: rounded up to the granularity.
                let ms = value
                    .div_ceil(KEEP_ALIVE_UNIT_MS)
                    .saturating_mul(KEEP_ALIVE_UNIT_MS);
                self.features.set_keep_alive(ms);
            }
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(0)
    }

    fn check_feature(&self, bus: &mut dyn Bus, id: u8) -> Done {
        match id {
            // 5.21.1.6: without a volatile write cache there is no such feature.
            VOLATILE_WRITE_CACHE if !self.has_cache => Err(Status::INVALID_FIELD),
            ARBITRATION
            | POWER_MANAGEMENT
            | TEMPERATURE_THRESHOLD
            | ERROR_RECOVERY
            | VOLATILE_WRITE_CACHE
            | NUMBER_OF_QUEUES
            | ASYNC_EVENT_CONFIGURATION
            | KEEP_ALIVE_TIMER => Ok(()),
            _ => {
                bus.unmodelled(format_args!("NVMe: feature {id:#04x}"));
                Err(Status::INVALID_FIELD)
            }
        }
    }

    fn check_feature_namespace(&self, sqe: &Sqe) -> Done {
        if sqe.nsid == ALL_NAMESPACES {
            Ok(())
        } else {
            self.namespace_index(sqe.nsid).map(drop)
        }
    }

    fn set_write_cache(&mut self, on: bool) -> Done {
        // 5.21.1.6: what is in the cache when it is disabled reaches the medium.
        if self.features.write_cache && !on {
            self.flush_all()?;
        }
        self.features.write_cache = on;
        Ok(())
    }

    /// 5.21.1.7: once, before any I/O queue is created. All queues are always there.
    fn set_number_of_queues(&mut self, value: u32) -> Done<u32> {
        if self.cqs[1..].iter().any(Option::is_some) {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        if value & 0xffff == 0xffff || value >> 16 == 0xffff {
            return Err(Status::INVALID_FIELD);
        }
        Ok(u32::from(self.queues - 1) * 0x1_0001)
    }

    fn warn_if_too_hot(&mut self) {
        if self.features.is_too_hot() && self.features.events & EVENTS != 0 {
            self.events.raise(Event::Temperature);
        }
    }
}
