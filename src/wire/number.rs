//! Numbers of JSON by their exact value, in any spelling: `1`, `1.0` and `10e-1` are one number,
//! `9007199254740992` and `9007199254740993` are two. The length of the text limits the work,
//! whatever the exponent.

/// A number taken apart.
struct Decimal {
    is_negative: bool,
    /// Neither begins nor ends with a zero; empty for zero.
    digits: String,
    /// The exponent: the digits as an integer are multiplied by ten to this power, which may be
    /// larger than any integer type.
    exponent: String,
}

impl Decimal {
    /// Of text that is a number in JSON.
    fn of(number: &str) -> Decimal {
        let (is_negative, unsigned) = match number.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, number),
        };
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [whole, fraction].concat();
        let significant = all.trim_end_matches('0');
        let zeros = all.len() - significant.len();
        let digits = significant.trim_start_matches('0').to_owned();
        let exponent = match digits.is_empty() {
            true => "0".to_owned(),
            false => add(exponent, zeros as i64 - fraction.len() as i64),
        };
        Decimal {
            is_negative: is_negative && !digits.is_empty(),
            digits,
            exponent,
        }
    }
}

/// An integer of any size and a small one.
fn add(number: &str, small: i64) -> String {
    let (is_negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let digits = digits.trim_start_matches('0');
    if digits.len() <= 17 {
        let large: i64 = digits.parse().unwrap_or(0);
        return (if is_negative { -large } else { large } + small).to_string();
    }
    // Larger than any length of a text: the sign stays.
    let mut carry = if is_negative { -small } else { small };
    let mut sum = digits.as_bytes().to_vec();
    for digit in sum.iter_mut().rev() {
        carry += i64::from(*digit - b'0');
        *digit = b'0' + carry.rem_euclid(10) as u8;
        carry = carry.div_euclid(10);
        if carry == 0 {
            break;
        }
    }
    let sum = String::from_utf8(sum).expect("digits are ASCII");
    let sign = if is_negative { "-" } else { "" };
    match carry {
        0 => format!("{sign}{}", sum.trim_start_matches('0')),
        carry => format!("{sign}{carry}{sum}"),
    }
}

/// Appends a text that is the same if and only if the values are.
pub fn write_canonical(number: &str, out: &mut String) {
    let decimal = Decimal::of(number);
    if decimal.is_negative {
        out.push('-');
    }
    out.push_str(&decimal.digits);
    out.push('e');
    out.push_str(&decimal.exponent);
}

/// As an integer, the largest or smallest if it is beyond those. `None` if it is none.
pub fn as_integer(number: &str) -> Option<i64> {
    let decimal = Decimal::of(number);
    if decimal.exponent.starts_with('-') {
        return None;
    }
    let zeros = decimal.exponent.parse().unwrap_or(usize::MAX);
    let value = match decimal.digits.len().saturating_add(zeros) {
        ..=18 if decimal.digits.is_empty() => 0,
        ..=18 => format!("{}{}", decimal.digits, "0".repeat(zeros))
            .parse()
            .expect("18 digits fit"),
        _ => i64::MAX,
    };
    Some(if decimal.is_negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(number: &str) -> String {
        let mut out = String::new();
        write_canonical(number, &mut out);
        out
    }

    #[test]
    fn spellings_of_a_number_are_one_value() {
        let huge = "9".repeat(30);
        let huger = format!("1{}", "0".repeat(30));
        for alike in [
            &[
                "1", "1.0", "1.000", "10e-1", "0.1e1", "0.1E+1", "1e0", "1e-00", "100e-2",
            ][..],
            &["0", "-0", "0.0", "-0.00", "0e999999999999999999999", "0e-5"],
            &["1e400", "10e399", "0.001e403", "1E+400", "1e0400"],
            &["-12.5", "-125e-1", "-0.125e2", "-1250E-2"],
            &[
                "9007199254740993",
                "9007199254740993.0",
                "9.007199254740993e15",
            ],
            &["1.6110196951812914", "1.61101969518129140"],
            &[
                &format!("10e{huge}"),
                &format!("1e{huger}"),
                &format!("0.1e+1{}1", "0".repeat(29)),
            ],
            &[
                &format!("1e-{huge}"),
                &format!("10e-{huger}"),
                &format!("0.01e-{}7", "9".repeat(29)),
            ],
        ] {
            for number in alike {
                assert_eq!(canonical(number), canonical(alike[0]), "{number}");
            }
        }
        let different = [
            "0",
            "1",
            "-1",
            "10",
            "9007199254740992",
            "9007199254740993",
            "1e400",
            "1e401",
            "1e-400",
            "1.6110196951812914",
            "1.6110196951812915",
            &format!("1e{huge}"),
            &format!("1e{huger}"),
            &format!("1e-{huge}"),
            &"7".repeat(401),
        ]
        .map(canonical);
        for (place, number) in different.iter().enumerate() {
            assert!(!different[..place].contains(number), "{number}");
        }
    }

    #[test]
    fn an_integer_may_be_written_in_any_json_form() {
        for (number, integer) in [
            ("200", Some(200)),
            ("200.0", Some(200)),
            ("2e2", Some(200)),
            ("20000e-2", Some(200)),
            ("-0", Some(0)),
            ("0e99999999999999999999", Some(0)),
            ("200.5", None),
            ("1e-400", None),
            ("1e400", Some(i64::MAX)),
            ("-1e99999999999999999999", Some(-i64::MAX)),
            ("123456789012345678901234567890", Some(i64::MAX)),
            ("999999999999999999", Some(999_999_999_999_999_999)),
        ] {
            assert_eq!(as_integer(number), integer, "{number}");
        }
    }

    #[test]
    fn a_large_exponent_needs_no_memory() {
        let digits = "9".repeat(1 << 20);
        assert!(canonical(&format!("1e{digits}")).len() <= digits.len() + 3);
        assert_eq!(as_integer(&format!("1e{digits}")), Some(i64::MAX));
        assert_eq!(canonical("1e1000000000"), "1e1000000000");
    }

    proptest! {
        #[test]
        fn values_are_compared_as_integers_are(
            a in 0u64..2000, b in 0u64..2000, up in 0usize..4, down in 0usize..4,
        ) {
            // The same value with its point elsewhere.
            let spelt = |n: u64| {
                let digits = format!("{n}{}", "0".repeat(down));
                format!("{}e{}", digits, up as i64 - down as i64)
            };
            let other = |n: u64| format!("0.{n:09}e{}", 9 + up);
            prop_assert_eq!(canonical(&spelt(a)) == canonical(&other(b)), a == b);
        }
    }
}
