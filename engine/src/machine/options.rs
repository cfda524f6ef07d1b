//! `SWIOMMU_OPTIONS`: what the preloaded library is told, in the manner of `ASAN_OPTIONS`.
//!
//! Pairs `key=value` separated by colons; a value may be quoted (`report="a:b"`). The command line writes the
//! variable from its flags over what the user had set; the library reads it with the same code.

use std::fmt;
use std::str::FromStr;

/// The variable.
pub const VARIABLE: &str = "SWIOMMU_OPTIONS";

/// The options, with what they mean.
pub const HELP: &[(&str, &str)] = &[
    (
        "audit=0|1",
        "watch for system calls that escape interposition and name them",
    ),
    ("color=auto|always|never", "colour in reports"),
    (
        "exitcode=0..255",
        "exit status of `swiommu run` when findings were reported; 0 = the program's own",
    ),
    ("help=1", "list the options and stop"),
    ("report=FILE", "also write findings to FILE as JSON lines"),
    (
        "selftest=0|1",
        "check the preloaded library against this machine (used by `swiommu doctor`)",
    ),
    (
        "stacks=none|site|full",
        "how much of the client's call stack a report names",
    ),
    (
        "verbosity=0..2",
        "0 = mistakes only, 1 = also what is not supported, 2 = also legal calls that are often mistakes",
    ),
];

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Color {
    /// If stderr is a terminal and `NO_COLOR` is not set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How much of the client's stack a report names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stacks {
    /// Nothing.
    None,
    /// Thread, return address, module and offset.
    #[default]
    Site,
    /// The symbolised stack.
    Full,
}

/// The options, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Watch for escaped system calls.
    pub audit: bool,
    /// Colour.
    pub color: Color,
    /// Exit status when findings were reported; 0 = the program's own.
    pub exitcode: u8,
    /// List the options and stop.
    pub help: bool,
    /// Findings as JSON lines; written by `swiommu run` when the program has ended.
    pub report: Option<String>,
    /// Check the library against this machine.
    pub selftest: bool,
    /// Client stacks.
    pub stacks: Stacks,
    /// How much to say, 0..=2.
    pub verbosity: u8,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            audit: false,
            color: Color::Auto,
            exitcode: 0,
            help: false,
            report: None,
            selftest: false,
            stacks: Stacks::Site,
            verbosity: 1,
        }
    }
}

impl FromStr for Options {
    type Err = String;

    /// Parses the variable. A later pair wins.
    fn from_str(text: &str) -> Result<Options, String> {
        let mut options = Options::default();
        for pair in split(text)? {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(format!("'{pair}' is not key=value"));
            };
            options.set(key, value)?;
        }
        Ok(options)
    }
}

impl Options {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let accepted = HELP
            .iter()
            .map(|(form, _)| *form)
            .find(|form| form.split('=').next() == Some(key));
        let Some(accepted) = accepted else {
            let forms: Vec<&str> = HELP.iter().map(|(form, _)| *form).collect();
            return Err(format!(
                "unknown option '{key}': accepted are {}",
                forms.join(" ")
            ));
        };
        self.take(key, value)
            .ok_or_else(|| format!("{key}={value}: accepted is {accepted}"))
    }

    /// `None`: the option does not take this value.
    fn take(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "audit" => self.audit = boolean(value)?,
            "color" => self.color = name(value, &COLORS)?,
            "exitcode" => self.exitcode = value.parse().ok()?,
            "help" => self.help = boolean(value)?,
            "report" => self.report = Some(value.to_string()).filter(|path| !path.is_empty()),
            "selftest" => self.selftest = boolean(value)?,
            "stacks" => self.stacks = name(value, &STACKS)?,
            "verbosity" => self.verbosity = value.parse().ok().filter(|level| *level <= 2)?,
            _ => return None,
        }
        Some(())
    }
}

/// The names of [`Color`].
pub const COLORS: [(&str, Color); 3] = [
    ("auto", Color::Auto),
    ("always", Color::Always),
    ("never", Color::Never),
];
/// The names of [`Stacks`].
pub const STACKS: [(&str, Stacks); 3] = [
    ("none", Stacks::None),
    ("site", Stacks::Site),
    ("full", Stacks::Full),
];

fn name<T: Copy>(value: &str, table: &[(&str, T)]) -> Option<T> {
    table
        .iter()
        .find(|(name, _)| *name == value)
        .map(|(_, meaning)| *meaning)
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Splits at colons outside of double quotes, which are dropped. Empty pairs are skipped.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut pairs = vec![String::new()];
    let mut quoted = false;
    for char in text.chars() {
        match char {
            '"' => quoted = !quoted,
            ':' if !quoted => pairs.push(String::new()),
            _ => pairs.last_mut().expect("never empty").push(char),
        }
    }
    if quoted {
        return Err("a quote is not closed".into());
    }
    pairs.retain(|pair| !pair.is_empty());
    Ok(pairs)
}

impl fmt::Display for Options {
    /// The text that [`Options::from_str`] reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let color = COLORS
            .iter()
            .find(|(_, color)| *color == self.color)
            .map_or("auto", |(name, _)| name);
        let stacks = STACKS
            .iter()
            .find(|(_, stacks)| *stacks == self.stacks)
            .map_or("site", |(name, _)| name);
        write!(
            f,
            "audit={}:color={color}:exitcode={}",
            u8::from(self.audit),
            self.exitcode
        )?;
        write!(f, ":stacks={stacks}:verbosity={}", self.verbosity)?;
        for (key, yes) in [("help", self.help), ("selftest", self.selftest)] {
            if yes {
                write!(f, ":{key}=1")?;
            }
        }
        match &self.report {
            Some(path) => write!(f, ":report=\"{path}\""),
            None => f.write_str(""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_read_back_what_they_print() {
        let options: Options = "color=never:stacks=full:report=\"/a:b\":exitcode=9::audit=1"
            .parse()
            .unwrap();
        assert_eq!(options.report.as_deref(), Some("/a:b"));
        assert_eq!(
            (
                options.color,
                options.stacks,
                options.exitcode,
                options.audit
            ),
            (Color::Never, Stacks::Full, 9, true)
        );
        assert_eq!(options.to_string().parse(), Ok(options));
        assert_eq!(
            Options::default().to_string().parse(),
            Ok(Options::default())
        );
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_accepted_ones() {
        let error = "colour=never".parse::<Options>().unwrap_err();
        assert!(
            error.starts_with(
                "unknown option 'colour': accepted are audit=0|1 color=auto|always|never"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_value_that_is_not_taken_is_refused_with_the_accepted_ones() {
        let table = [
            (
                "stacks=deep",
                "stacks=deep: accepted is stacks=none|site|full",
            ),
            ("exitcode=256", "exitcode=256: accepted is exitcode=0..255"),
            ("verbosity=3", "verbosity=3: accepted is verbosity=0..2"),
            ("audit", "'audit' is not key=value"),
            ("report=\"x", "a quote is not closed"),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<Options>(), Err(error.to_string()));
        }
    }
}
