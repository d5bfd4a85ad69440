//! Python files and their syntax trees.

use std::fmt;
use std::fs;
use std::path::Path;

use tree_sitter::{Language, Node, Parser, Tree};

/// A place in the release that the importer cannot map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportProblem {
    /// The file, relative to the root of the clone.
    pub file: String,
    /// The line, from 1; `None` if the whole file is meant.
    pub line: Option<usize>,
    /// What was found, and what was expected.
    pub message: String,
}

impl fmt::Display for ImportProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// A parsed file of the release.
pub(super) struct PythonFile {
    path: &'static str,
    text: String,
    tree: Tree,
}

impl PythonFile {
    /// Reads and parses the file at `path`, relative to `clone`.
    pub fn read(clone: &Path, path: &'static str) -> Result<Self, ImportProblem> {
        let whole = |message: String| ImportProblem { file: path.into(), line: None, message };
        let text = fs::read_to_string(clone.join(path))
            .map_err(|e| whole(format!("cannot read: {e}; expected the Python file of the release")))?;
        Self::parse(path, &text).map_err(whole)
    }

    fn parse(path: &'static str, text: &str) -> Result<Self, String> {
        // Python, too, reads every kind of line ending as a newline, inside of literals as well.
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
        let mut parser = Parser::new();
        let grammar: Language = tree_sitter_python::LANGUAGE.into();
        parser.set_language(&grammar).map_err(|e| format!("cannot load the grammar of Python: {e}"))?;
        let tree = parser.parse(&text, None).ok_or("cannot parse: the parser stopped")?;
        Ok(Self { path, text, tree })
    }

    /// Returns the function or method `name`.
    pub fn function(&self, name: &str) -> Result<Node<'_>, ImportProblem> {
        let mut found = Vec::new();
        walk(self.tree.root_node(), &mut |node| {
            let named = node.child_by_field_name("name").is_some_and(|n| self.source(n) == name);
            if node.kind() == "function_definition" && named {
                found.push(node);
            }
            true
        });
        match found.as_slice() {
            [function] => {
                self.check_syntax(*function)?;
                Ok(*function)
            }
            [] => {
                let message = format!("has no function `{name}`; expected the function that makes the prompt");
                Err(ImportProblem { file: self.path.into(), line: None, message })
            }
            [_, second, ..] => Err(self.problem(*second, format!("defines `{name}` again; expected one definition"))),
        }
    }

    fn check_syntax(&self, function: Node<'_>) -> Result<(), ImportProblem> {
        let mut defect = None;
        walk(function, &mut |node| {
            if defect.is_none() && (node.is_error() || node.is_missing()) {
                defect = Some(node.start_position().row + 1);
            }
            node.has_error()
        });
        match defect {
            Some(line) => {
                let message = "is not Python that the importer can parse".into();
                Err(ImportProblem { file: self.path.into(), line: Some(line), message })
            }
            None => Ok(()),
        }
    }

    /// Returns the root of the syntax tree.
    pub fn module(&self) -> Node<'_> {
        self.tree.root_node()
    }

    /// Returns the source of a node.
    pub fn source(&self, node: Node<'_>) -> &str {
        self.slice(node.start_byte(), node.end_byte())
    }

    /// Returns the source between two places of the syntax tree.
    pub fn slice(&self, start: usize, end: usize) -> &str {
        // The parser reads whole characters, so nodes begin and end between characters.
        self.text.get(start..end).unwrap_or_default()
    }

    /// Describes a problem at a node.
    pub fn problem(&self, node: Node<'_>, message: impl Into<String>) -> ImportProblem {
        ImportProblem { file: self.path.into(), line: Some(self.line(node)), message: message.into() }
    }

    /// Returns the line of a node, from 1.
    pub fn line(&self, node: Node<'_>) -> usize {
        node.start_position().row + 1
    }

    /// Returns the path relative to the root of the clone.
    pub fn path(&self) -> &'static str {
        self.path
    }
}

/// Visits a node and its descendants in the order of the source; `visit` returns whether to descend.
pub(super) fn walk<'t>(node: Node<'t>, visit: &mut dyn FnMut(Node<'t>) -> bool) {
    if visit(node) {
        let mut cursor = node.walk();
        for child in node.children(&mut cursor) {
            walk(child, visit);
        }
    }
}

/// Returns the named children of a node, without comments.
pub(super) fn children(node: Node<'_>) -> Vec<Node<'_>> {
    let mut cursor = node.walk();
    node.named_children(&mut cursor).filter(|child| child.kind() != "comment").collect()
}
