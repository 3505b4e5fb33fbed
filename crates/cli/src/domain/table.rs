//! Tables as 2014's tab writer made them: columns left-aligned, two spaces apart, nothing after the last.

/// A table. A cell's control characters are replaced: what a stranger chose must not move the cursor.
pub(crate) fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let header = (!header.is_empty()).then(|| header.iter().map(|&cell| cell.to_owned()).collect());
    let rows: Vec<Vec<String>> = header
        .into_iter()
        .chain(rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()))
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row: &Vec<String>| row.get(column));
        cells.map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut table = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}  ");
        }
        table += line.trim_end();
        table.push('\n');
    }
    table
}

/// The text with control characters made visible.
pub(crate) fn plain(text: &str) -> String {
    text.replace(|c: char| c.is_control(), "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_where_their_text_ends() {
        let rows = [vec!["http:a.b".into(), "a-web".into()], vec!["tcp:1".into(), String::new()]];
        assert_eq!(
            render(&["ROUTE", "SERVICE"], &rows),
            "ROUTE     SERVICE\nhttp:a.b  a-web\ntcp:1\n"
        );
        assert_eq!(render(&[], &[]), "");
    }

    proptest! {
        #[test]
        fn a_table_has_one_line_a_row_whatever_the_cells_hold(
            rows in prop::collection::vec(prop::collection::vec(".{0,9}", 0..4), 0..5)
        ) {
            prop_assert_eq!(render(&["A"], &rows).matches('\n').count(), rows.len() + 1);
        }
    }
}
