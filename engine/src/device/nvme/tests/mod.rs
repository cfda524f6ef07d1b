//! The controller as a driver sees it.

mod admin;
mod cache;
mod driver;
mod events;
mod fuzz;
mod io;
mod logs;
mod queues;
mod registers;

use super::bits::{Status, admin_op, io_op, reg};
use driver::{Command, Driver};
