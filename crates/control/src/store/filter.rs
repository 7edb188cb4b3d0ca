//! Filters of lists: `field=pattern,pattern;tag:Key=pattern`, as EC2's.
//!
//! Owns the language and whether a document matches. `*` stands for any text and `?` for any character; a backslash takes
//! the meaning from the character behind it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde_json::Value;

/// All of its fields must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    fields: Vec<Field>,
}

/// A place in the document and the patterns of which one must match.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    path: Vec<String>,
    patterns: Vec<Vec<Part>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Exactly(char),
    AnyCharacter,
    AnyText,
}

/// Why a text is not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("the filter is longer than {max} characters", max = Filter::MAX_LENGTH)]
    TooLong,
    #[error("`{0}` is not `field=pattern`")]
    NoPattern(String),
}

impl Filter {
    pub(crate) const MAX_LENGTH: usize = 4096;

    pub(crate) fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > Self::MAX_LENGTH {
            return Err(FilterError::TooLong);
        }
        let clauses = split(text, ';').into_iter().filter(|clause| !clause.is_empty());
        Ok(Self { fields: clauses.map(|clause| Field::parse(&clause)).collect::<Result<_, _>>()? })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub(crate) fn matches(&self, document: &Value) -> bool {
        self.fields.iter().all(|field| field.matches(document, &field.path))
    }
}

impl Field {
    fn parse(clause: &str) -> Result<Self, FilterError> {
        let malformed = || FilterError::NoPattern(clause.chars().take(64).collect());
        let (name, patterns) = clause.split_once('=').ok_or_else(malformed)?;
        let path: Vec<String> = match name.strip_prefix("tag:") {
            // The key of a tag may have dots in it.
            Some(key) => vec!["tags".into(), key.into()],
            None => name.split('.').map(str::to_owned).collect(),
        };
        if path.iter().any(String::is_empty) {
            return Err(malformed());
        }
        Ok(Self { path, patterns: split(patterns, ',').iter().map(|text| parse_pattern(text)).collect() })
    }

    /// Looks along `path`; of a list any element may match.
    fn matches(&self, value: &Value, path: &[String]) -> bool {
        match (value, path) {
            (Value::Array(elements), _) => elements.iter().any(|element| self.matches(element, path)),
            (Value::Object(members), [name, rest @ ..]) => {
                members.get(name).is_some_and(|member| self.matches(member, rest))
            }
            (Value::String(text), []) => self.matches_text(text),
            (Value::Number(_) | Value::Bool(_), []) => self.matches_text(&value.to_string()),
            _ => false,
        }
    }

    fn matches_text(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        self.patterns.iter().any(|pattern| matches_pattern(pattern, &text))
    }
}

/// Splits at `separator` where no backslash stands before it; backslashes stay.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut escaped = false;
    for character in text.chars() {
        if character == separator && !escaped {
            pieces.push(String::new());
        } else if let Some(piece) = pieces.last_mut() {
            piece.push(character);
        }
        escaped = character == '\\' && !escaped;
    }
    pieces
}

fn parse_pattern(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        parts.push(match character {
            '*' => Part::AnyText,
            '?' => Part::AnyCharacter,
            '\\' => Part::Exactly(characters.next().unwrap_or('\\')),
            other => Part::Exactly(other),
        });
    }
    parts
}

/// Goes back only to the last `*`, which is enough, so the time is at most the product of both lengths.
fn matches_pattern(pattern: &[Part], text: &[char]) -> bool {
    let (mut at_pattern, mut at_text) = (0, 0);
    let mut last_star = None;
    while at_text < text.len() {
        match pattern.get(at_pattern) {
            Some(Part::AnyText) => {
                last_star = Some((at_pattern, at_text));
                at_pattern += 1;
            }
            Some(part) if *part == Part::AnyCharacter || *part == Part::Exactly(text[at_text]) => {
                at_pattern += 1;
                at_text += 1;
            }
            _ => {
                let Some((star, taken)) = last_star else { return false };
                last_star = Some((star, taken + 1));
                (at_pattern, at_text) = (star + 1, taken + 1);
            }
        }
    }
    pattern[at_pattern..].iter().all(|part| *part == Part::AnyText)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(filter: &str, document: &Value) -> bool {
        Filter::parse(filter).unwrap().matches(document)
    }

    /// The plainest definition there is.
    fn model(pattern: &[Part], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([Part::AnyText, rest @ ..], _) => (0..=text.len()).any(|taken| model(rest, &text[taken..])),
            ([Part::AnyCharacter, rest @ ..], [_, tail @ ..]) => model(rest, tail),
            ([Part::Exactly(wanted), rest @ ..], [given, tail @ ..]) => wanted == given && model(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_their_definition_says(pattern in "[ab*?]{0,10}", text in "[ab]{0,10}") {
            let (pattern, text) = (parse_pattern(&pattern), text.chars().collect::<Vec<_>>());
            prop_assert_eq!(matches_pattern(&pattern, &text), model(&pattern, &text));
        }
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            if let Ok(filter) = Filter::parse(&text) { filter.matches(&json!({"a": ["b", {"c": 1}]})); }
        }
        #[test]
        fn an_escaped_value_finds_itself(value in "[a*?,;\\\\=]{1,12}") {
            let escaped: String = value.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(check(&format!("name={escaped}"), &json!({"name": value})), "{escaped}");
        }
    }

    #[test]
    fn all_fields_must_match_one_of_their_patterns() {
        let document = json!({
            "state": "running", "vcpus": 2, "groups": ["sg-1", "sg-2"], "placement": {"group": "web"},
            "tags": {"Name": "web-1", "a.b": "c"},
        });
        for (filter, expected) in [
            ("state=running,stopped;tag:Name=web-?", true),
            ("state=stopped;tag:Name=web-?", false),
            ("vcpus=2", true),
            ("groups=sg-2", true),
            ("placement.group=w*", true),
            ("tag:a.b=c", true),
            ("tags.Name=*", true),
            ("nothing=*", false),
            ("placement=*", false),
            ("", true),
        ] {
            assert_eq!(check(filter, &document), expected, "{filter}");
        }
    }

    #[test]
    fn a_clause_without_a_field_or_a_pattern_is_refused() {
        for filter in ["state", "=x", "a..b=x", "tag:=x"] {
            assert!(Filter::parse(filter).is_err(), "{filter}");
        }
        assert_eq!(Filter::parse(&"a".repeat(5000)), Err(FilterError::TooLong));
    }
}
