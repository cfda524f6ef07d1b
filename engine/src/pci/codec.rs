//! Numbers as bytes, little-endian, for a device's state on its way to another one.

/// What was to be read is not there, or cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadState;

/// Appends numbers.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

/// Takes numbers off the front.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

macro_rules! numbers {
    ($($name:ident)*) => {
        impl Writer {
            $(
                /// Appends a number.
                pub fn $name(&mut self, value: $name) {
                    self.0.extend_from_slice(&value.to_le_bytes());
                }
            )*
        }

        impl Reader<'_> {
            $(
                /// Takes a number.
                ///
                /// # Errors
                /// Nothing is left.
                pub fn $name(&mut self) -> Result<$name, BadState> {
                    let raw = self.bytes(size_of::<$name>())?;
                    Ok($name::from_le_bytes(raw.try_into().map_err(|_| BadState)?))
                }
            )*
        }
    };
}

numbers!(u8 u16 u32 u64);

impl Writer {
    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends a truth.
    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// All of it.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl<'a> Reader<'a> {
    /// Of these bytes.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// Takes bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], BadState> {
        let (taken, left) = self.0.split_at_checked(count).ok_or(BadState)?;
        self.0 = left;
        Ok(taken)
    }

    /// Takes a truth.
    ///
    /// # Errors
    /// Nothing is left, or it is neither 0 nor 1.
    pub fn bool(&mut self) -> Result<bool, BadState> {
        truth(u16::from(self.u8()?))
    }

    /// Takes a truth of two bytes.
    ///
    /// # Errors
    /// As [`Reader::bool`].
    pub fn bool16(&mut self) -> Result<bool, BadState> {
        truth(self.u16()?)
    }

    /// Takes a number that must be this one.
    ///
    /// # Errors
    /// It is another.
    pub fn same(&mut self, value: u64) -> Result<(), BadState> {
        check(self.u64()? == value)
    }

    /// Nothing must be left.
    ///
    /// # Errors
    /// Something is.
    pub fn end(&self) -> Result<(), BadState> {
        check(self.0.is_empty())
    }
}

fn truth(value: u16) -> Result<bool, BadState> {
    check(value < 2)?;
    Ok(value == 1)
}

/// What must hold of a state.
///
/// # Errors
/// It does not.
pub fn check(holds: bool) -> Result<(), BadState> {
    if holds { Ok(()) } else { Err(BadState) }
}
