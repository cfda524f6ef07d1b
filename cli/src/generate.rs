//! Man pages and shell completions, from the same definition as the command line.

use crate::Failure;
use crate::args::{Cli, CompletionsArgs, ManArgs};
use clap::CommandFactory;
use std::io::Write;

/// `swiommu completions`
pub fn completions(args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "swiommu", &mut script);
    std::io::stdout()
        .write_all(&script)
        .map_err(Failure::ours)?;
    Ok(0)
}

/// `swiommu man`
pub fn man(args: &ManArgs) -> Result<u8, Failure> {
    let Some(directory) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut page)
            .map_err(Failure::ours)?;
        std::io::stdout().write_all(&page).map_err(Failure::ours)?;
        return Ok(0);
    };
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .map_err(|error| Failure::ours(format!("--dir {}: {error}", directory.display())))?;
    Ok(0)
}
