//! The responses of a stage, divided into requests.

use std::ops::Range;

use crate::batch::RewardResponse;

/// Divides responses into requests of at most `batch_size` responses (0: no limit) without splitting a group. A larger group is a
/// request of its own.
pub fn split(responses: &[RewardResponse<'_>], batch_size: usize) -> Vec<Range<usize>> {
    let limit = if batch_size == 0 { usize::MAX } else { batch_size };
    let mut requests: Vec<Range<usize>> = Vec::new();
    let mut begin = 0;
    for group in responses.chunk_by(|a, b| a.group == b.group) {
        let end = begin + group.len();
        match requests.last_mut() {
            Some(last) if end - last.start <= limit => last.end = end,
            _ => requests.push(begin..end),
        }
        begin = end;
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::response;

    #[test]
    fn groups_stay_together() {
        let groups = [0, 0, 1, 1, 2, 3, 3, 3, 3, 4];
        let responses: Vec<RewardResponse<'_>> =
            groups.iter().map(|&group| RewardResponse { group, ..response(Some(0.5), 1) }).collect();
        let whole = std::slice::from_ref(&(0..10));
        assert_eq!(split(&responses, 0), whole);
        assert_eq!(split(&responses, 100), whole);
        assert_eq!(split(&responses, 4), [0..4, 4..5, 5..9, 9..10]);
        assert_eq!(split(&responses, 5), [0..5, 5..10]);
        assert_eq!(split(&responses, 1), [0..2, 2..4, 4..5, 5..9, 9..10]);
        assert!(split(&[], 4).is_empty());
    }
}
