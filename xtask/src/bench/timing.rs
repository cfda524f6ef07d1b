//! Two commands timed in turns, so that a slow moment of the machine meets both.

use crate::run::captured;
use anyhow::{Result, bail};
use std::process::Command;
use std::time::Instant;

/// What a comparison came to: the median of each side, and the median of the ratios of neighbours.
pub struct Pair {
    /// Seconds of the first side.
    pub ours: f64,
    /// Seconds of the second side.
    pub beside: f64,
    /// First by second.
    pub ratio: f64,
}

/// The middle one of some values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Takes both sides in turns, `rounds` times after one that does not count.
pub fn compare(
    rounds: usize,
    mut ours: impl FnMut() -> Result<f64>,
    mut beside: impl FnMut() -> Result<f64>,
) -> Result<Pair> {
    beside()?;
    ours()?;
    let mut both = Vec::new();
    for _ in 0..rounds {
        let other = beside()?;
        both.push((ours()?, other));
    }
    Ok(Pair {
        ours: median(both.iter().map(|b| b.0).collect()),
        beside: median(both.iter().map(|b| b.1).collect()),
        ratio: median(both.iter().map(|b| b.0 / b.1).collect()),
    })
}

/// Seconds that a command takes; its failure is an error.
pub fn wall(mut command: Command) -> Result<f64> {
    let start = Instant::now();
    let output = captured(&mut command)?;
    let took = start.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!(
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_neighbours_and_the_first_round_does_not_count() {
        let (ours, beside) = ([9.0, 2.0, 20.0, 6.0], [9.0, 1.0, 10.0, 2.0]);
        let (mut ours, mut beside) = (ours.into_iter(), beside.into_iter());
        let pair = compare(
            3,
            || Ok(ours.next().unwrap()),
            || Ok(beside.next().unwrap()),
        )
        .unwrap();
        assert_eq!((pair.ours, pair.beside, pair.ratio), (6.0, 2.0, 2.0));
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
