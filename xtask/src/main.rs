//! What the project does to itself: `cargo xtask demo`, `test`, `bench`, `record`, `fetch`, `fuzz`, `mutate`, `tidy`, `bless`.
//!
//! Every command is quiet but for progress on long work, and answers by its exit status. `NO_COLOR` is respected.

mod bench;
mod clients;
mod demo;
mod fetch;
mod fuzz;
mod mutate;
mod project;
mod record;
mod run;
mod tap;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything, copy data through an emulated NVMe with Debian's own qemu-io, and catch one deliberate bug
    Demo,
    /// Fetch what the tests need and run all of them
    Test(test::Options),
    /// Run the benchmarks and write BENCHMARKS.md
    Bench(bench::Options),
    /// Record what a real kernel answers to the client programs
    Record(record::Options),
    /// Download and unpack the client programs of the tests
    Fetch(fetch::Options),
    /// Run the fuzz bodies for a bounded time
    Fuzz(fuzz::Options),
    /// Break the rules of groups one by one: the test of each must notice
    Mutate(mutate::Options),
    /// Check the style of the tree
    Tidy,
    /// Accept the reports that the client suite produces now as its goldens
    Bless,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo => demo::demo(),
        Command::Test(options) => test::test(&options),
        Command::Bench(options) => bench::bench(&options),
        Command::Record(options) => record::record(&options),
        Command::Fetch(options) => fetch::fetch(&options),
        Command::Fuzz(options) => fuzz::fuzz(&options),
        Command::Mutate(options) => mutate::mutate(&options),
        Command::Tidy => tidy::tidy(),
        Command::Bless => test::bless(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
