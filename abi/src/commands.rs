//! Lists of commands.

/// Commands of one kind of file: number and the kernel's name.
pub type Commands = &'static [(u32, &'static str)];

/// The kernel's name of a command.
pub const fn name(commands: Commands, cmd: u32) -> Option<&'static str> {
    let mut at = 0;
    while at < commands.len() {
        if commands[at].0 == cmd {
            return Some(commands[at].1);
        }
        at += 1;
    }
    None
}
