//! AMQP field tables: the arguments of declarations and the `headers` property.
//!
//! Order and exact types are kept, so that what a client sent can be compared, shown and sent back as it was.

/// A field table in wire order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FieldTable(pub Vec<(String, FieldValue)>);

/// One value of a field table, with the wire type it came as.
#[derive(Clone, PartialEq, Debug)]
pub enum FieldValue {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`, and `L` on input
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: the value is `value / 10^scale`
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// All digits.
        value: u32,
    },
    /// `S`: bytes, mostly UTF-8
    LongStr(Vec<u8>),
    /// `x`
    Bytes(Vec<u8>),
    /// `T`: seconds since the Unix epoch
    Timestamp(u64),
    /// `A`
    Array(Vec<FieldValue>),
    /// `F`
    Table(FieldTable),
    /// `V`
    Void,
}

impl FieldTable {
    /// The first value of that name.
    pub fn get(&self, key: &str) -> Option<&FieldValue> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
