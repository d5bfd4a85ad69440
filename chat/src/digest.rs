//! Digests as text.

/// Returns the bytes as lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses a SHA-256 digest of 64 hexadecimal digits; `None` for any other text.
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut digest = [0; 32];
    if digits.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_back() {
        let digest: [u8; 32] = std::array::from_fn(|index| (index as u8).wrapping_mul(37));
        assert_eq!(from_hex(&hex(&digest)), Some(digest));
        assert_eq!(hex(&[0, 10, 255]), "000aff");
        let (short, other) = ("ab".repeat(31), "xy".repeat(32));
        assert_eq!((from_hex(&short), from_hex(&other)), (None, None));
    }
}
