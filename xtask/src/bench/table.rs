//! The one table: what was measured, beside what, and whether it is what is required.

use std::fmt::Write as _;

/// What a row has to be.
#[derive(Clone, Copy)]
pub enum Required {
    /// The ratio is at most this.
    AtMost(f64),
    /// The ratio is at least this.
    AtLeast(f64),
    /// Nothing: it is reported beside the others.
    Nothing,
}

/// One comparison.
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Our figure, with its unit.
    pub ours: String,
    /// What it is compared with, and that one's figure.
    pub beside: String,
    /// What [`Required`] speaks of.
    pub ratio: f64,
    /// Stands behind the ratio: `x`, ` ms`.
    pub unit: &'static str,
    pub required: Required,
}

impl Row {
    /// `ours` by `beside`, both in nanoseconds.
    pub fn times(
        what: impl Into<String>,
        ours: f64,
        beside: (&str, f64),
        required: Required,
    ) -> Row {
        Row {
            what: what.into(),
            ours: nanoseconds(ours),
            beside: format!("{} {}", beside.0, nanoseconds(beside.1)),
            ratio: ours / beside.1,
            unit: "x",
            required,
        }
    }

    /// How fast ours is as a part of the speed of `beside`, both in nanoseconds.
    pub fn speed(
        what: impl Into<String>,
        ours: f64,
        beside: (&str, f64),
        required: Required,
    ) -> Row {
        Row {
            ratio: beside.1 / ours,
            unit: "",
            ..Row::times(what, ours, beside, required)
        }
    }

    fn verdict(&self) -> &'static str {
        let ok = match self.required {
            Required::AtMost(most) => self.ratio <= most,
            Required::AtLeast(least) => self.ratio >= least,
            Required::Nothing => return "",
        };
        if ok { "ok" } else { "missed" }
    }

    fn cells(&self) -> [String; 6] {
        let bound = match self.required {
            Required::AtMost(most) => format!("at most {most}{}", self.unit),
            Required::AtLeast(least) => format!("at least {least}{}", self.unit),
            Required::Nothing => String::new(),
        };
        [
            self.what.clone(),
            self.ours.clone(),
            self.beside.clone(),
            bound,
            format!("{:.2}{}", self.ratio, self.unit),
            self.verdict().into(),
        ]
    }
}

/// A time in the unit that reads best.
pub fn nanoseconds(ns: f64) -> String {
    match ns {
        ns if ns < 100.0 => format!("{ns:.1} ns"),
        ns if ns < 1e4 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

/// All rows as a Markdown table, padded so that it also reads as text. Rows that have to be something come first.
pub fn render(rows: &[Row]) -> String {
    let heads = ["what", "swiommu", "beside", "required", "measured", ""].map(String::from);
    let (required, reported): (Vec<_>, Vec<_>) = rows
        .iter()
        .partition(|row| !matches!(row.required, Required::Nothing));
    let mut lines = vec![heads];
    lines.extend(required.iter().chain(&reported).map(|row| row.cells()));
    let widths: Vec<usize> = (0..6)
        .map(|column| {
            lines
                .iter()
                .map(|l| l[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, &width) in line.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(text, "| {cell:width$} ");
        }
        text += "|\n";
        if number == 0 {
            for width in &widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text += "|\n";
        }
    }
    text
}

/// How many rows miss what they have to be.
pub fn missed(rows: &[Row]) -> usize {
    rows.iter().filter(|row| row.verdict() == "missed").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_ok_up_to_its_bound_and_missed_beyond() {
        let row = |ratio, required| Row {
            ratio,
            ..Row::times("a", 1.0, ("b", 1.0), required)
        };
        assert_eq!(row(6.0, Required::AtMost(6.0)).verdict(), "ok");
        assert_eq!(row(6.1, Required::AtMost(6.0)).verdict(), "missed");
        assert_eq!(row(0.9, Required::AtLeast(0.9)).verdict(), "ok");
        assert_eq!(row(0.89, Required::AtLeast(0.9)).verdict(), "missed");
        assert_eq!(row(99.0, Required::Nothing).verdict(), "");
    }

    #[test]
    fn required_rows_come_first_and_columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            Row::times("reported", 1.0, ("b", 2.0), Required::Nothing),
            Row::speed("required", 1.0, ("b", 2.0), Required::AtLeast(0.5)),
        ];
        let text = render(&rows);
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[2].starts_with("| required ")
                && lines[2].contains("2.00")
                && lines[2].contains("ok")
        );
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
    }
}
