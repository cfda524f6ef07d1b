//! The library in C programs, on a tree made by hand and with a toy engine.

mod remote;
mod run;
mod symbols;
