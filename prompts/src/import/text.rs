//! Text that is constant but for template fields.

use chat::prompts::NO_PAST;

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text that never varies.
    Constant(String),
    /// The value of a template expression.
    Field(String),
    /// One text per element of the list `list`, which `body` calls `item`, joined by `separator`.
    Each { list: &'static str, item: &'static str, body: Text, separator: String },
    /// A text in which every occurrence of `from` becomes `to`, a constant or a field.
    Replaced { text: Text, from: String, to: Box<Piece> },
    /// A text that depends on whether there is a past summary.
    Past { given: Text, missing: Text },
}

/// An end of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    Start,
    End,
}

/// Pieces in order. No constant is empty, and no two are adjacent, so equal texts have equal pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text(Vec<Piece>);

impl Text {
    /// Creates a text that never varies.
    pub fn constant(text: impl Into<String>) -> Self {
        let mut whole = Self::default();
        whole.push(Piece::Constant(text.into()));
        whole
    }

    /// Creates the text of a template expression.
    pub fn field(expression: impl Into<String>) -> Self {
        Self(vec![Piece::Field(expression.into())])
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: Piece) {
        if let Piece::Constant(text) = &piece {
            if text.is_empty() {
                return;
            }
            if let Some(Piece::Constant(last)) = self.0.last_mut() {
                last.push_str(text);
                return;
            }
        }
        self.0.push(piece);
    }

    /// Appends another text.
    pub fn append(&mut self, other: Text) {
        for piece in other.0 {
            self.push(piece);
        }
    }

    /// Returns the pieces.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Returns the text if it never varies.
    pub fn as_constant(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Constant(text)] => Some(text),
            _ => None,
        }
    }

    /// Returns whether the text varies with the template field `name`.
    pub fn uses(&self, name: &str) -> bool {
        self.0.iter().any(|piece| match piece {
            Piece::Constant(_) => false,
            Piece::Field(expression) => root(expression) == name,
            Piece::Each { list, body, .. } => *list == name || body.uses(name),
            Piece::Replaced { text, to, .. } => {
                text.uses(name) || matches!(&**to, Piece::Field(expression) if root(expression) == name)
            }
            Piece::Past { given, missing } => name == "past" || given.uses(name) || missing.uses(name),
        })
    }

    /// Returns the text without the characters at `edge` that `strips` selects; `None` if these depend on a field.
    pub fn stripped(mut self, edge: Edge, strips: &dyn Fn(char) -> bool) -> Option<Self> {
        if self.0.is_empty() {
            return Some(self);
        }
        let at = match edge {
            Edge::Start => 0,
            Edge::End => self.0.len() - 1,
        };
        let kept = match &self.0[at] {
            Piece::Constant(text) => {
                let kept = match edge {
                    Edge::Start => text.trim_start_matches(strips),
                    Edge::End => text.trim_end_matches(strips),
                };
                if kept.is_empty() && self.0.len() > 1 {
                    return None;
                }
                Piece::Constant(kept.to_owned())
            }
            Piece::Replaced { text, from, to } => {
                let text = text.clone().stripped(edge, strips)?;
                if !text.keeps_edge(edge, from) || from.trim_matches(strips) != from {
                    return None;
                }
                Piece::Replaced { text, from: from.clone(), to: to.clone() }
            }
            Piece::Field(_) | Piece::Each { .. } | Piece::Past { .. } => return None,
        };
        self.0[at] = kept;
        let mut whole = Self::default();
        self.0.into_iter().for_each(|piece| whole.push(piece));
        Some(whole)
    }

    /// Returns whether no replacement of `from` can change the character at `edge`.
    fn keeps_edge(&self, edge: Edge, from: &str) -> bool {
        let piece = match edge {
            Edge::Start => self.0.first(),
            Edge::End => self.0.last(),
        };
        match (piece, edge) {
            (Some(Piece::Constant(text)), Edge::Start) => !text.starts_with(from) && !from.starts_with(text.as_str()),
            (Some(Piece::Constant(text)), Edge::End) => !text.ends_with(from) && !from.ends_with(text.as_str()),
            _ => false,
        }
    }

    /// Returns the text with every occurrence of `from` replaced; `None` if no template expresses that.
    pub fn replaced(self, from: &str, to: &Text) -> Option<Self> {
        if from.is_empty() {
            return None;
        }
        if let Some(text) = self.as_constant() {
            let mut whole = Self::default();
            for (index, part) in text.split(from).enumerate() {
                if index > 0 {
                    whole.append(to.clone());
                }
                whole.push(Piece::Constant(part.to_owned()));
            }
            return Some(whole);
        }
        let to = match to.0.as_slice() {
            [] => Piece::Constant(String::new()),
            [piece @ (Piece::Constant(_) | Piece::Field(_))] => piece.clone(),
            _ => return None,
        };
        Some(Self(vec![Piece::Replaced { text: self, from: from.to_owned(), to: Box::new(to) }]))
    }

    /// Returns the text that is `given` if there is a past summary and else `missing`. The field `past` then reads
    /// [`NO_PAST`], so `given` alone is enough if it turns into `missing`.
    pub fn by_past(given: Text, missing: Text) -> Self {
        if given.without_past() == missing { given } else { Self(vec![Piece::Past { given, missing }]) }
    }

    /// Returns what the text is if there is no past summary.
    fn without_past(&self) -> Self {
        let mut whole = Self::default();
        for piece in &self.0 {
            match piece {
                Piece::Constant(_) => whole.push(piece.clone()),
                Piece::Field(_) => whole.push(field_without_past(piece)),
                Piece::Each { list, item, body, separator } => {
                    let (body, separator) = (body.without_past(), separator.clone());
                    whole.push(Piece::Each { list, item, body, separator });
                }
                Piece::Replaced { text, from, to } => {
                    let (text, to) = (text.without_past(), field_without_past(to));
                    if to == Piece::Constant(from.clone()) {
                        whole.append(text);
                    } else {
                        whole.push(Piece::Replaced { text, from: from.clone(), to: Box::new(to) });
                    }
                }
                Piece::Past { missing, .. } => whole.append(missing.without_past()),
            }
        }
        whole
    }
}

fn field_without_past(piece: &Piece) -> Piece {
    match piece {
        Piece::Field(expression) if expression == "past" => Piece::Constant(NO_PAST.into()),
        _ => piece.clone(),
    }
}

/// Returns the name with which a template expression begins.
fn root(expression: &str) -> &str {
    expression.split(['.', ' ']).next().unwrap_or_default()
}

/// Returns whether Python's `str.strip` takes a character as white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}
