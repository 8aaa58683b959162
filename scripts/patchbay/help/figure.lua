return {
  { name = "figure", summary = "Panels that are laid out and drawn together; #figure is their number.",
    text = "What pb.plot and grid:heatmap are made of. Panels are placed from left to right, then top to bottom." },
  { name = "pb.figure", signature = "pb.figure { title =, subtitle =, caption =, columns =, scales =, pixel_scale = 2, facts = } -> figure",
    summary = "An empty figure.",
    text = "scales: which heat maps share a colour scale: \"auto\" (same unit), \"shared\", \"own\". facts: texts that are written into the file." },
  { name = "figure:heatmap",
    signature = "figure:heatmap { values =, title =, row_labels =, col_labels =, x_title =, y_title =, unit =, ... } -> figure",
    summary = "A grid of numbers: values is a tensor [rows, cols].",
    text = [[
Also: subtitle, marked_rows and marked_cols (0-based places to emphasise), transposed (rows along x), upward (first row at the bottom), causal
(cells with col > row are not drawn), colours, range { low, high }, numbers, digits. NaN cells are hatched.]] },
  { name = "figure:attention", signature = "figure:attention { pattern =, title =, labels =, mark =, bidirectional =, colours =, range =, unit = } -> figure",
    summary = "One head's pattern, a tensor [dest, src]." },
  { name = "figure:lines", signature = "figure:lines { series =, title =, x_title =, y_title =, ... } -> figure", summary = "Lines; see pb.plot.line for the fields." },
  { name = "figure:bars", signature = "figure:bars { values =, labels =, series_labels =, ... } -> figure", summary = "Bars: values is a tensor [series, groups]; see pb.plot.bar." },
  { name = "figure:scatter", signature = "figure:scatter { x =, y =, ... } -> figure", summary = "Points; see pb.plot.scatter." },
  { name = "figure:save", signature = "figure:save(path [, facts]) -> figure", summary = "Write a .png, .svg or .pdf file, with its facts in it.",
    text = "The program's version and the seed are always among the facts. A failure leaves an older file untouched." },
  { name = "figure:text", signature = "figure:text([{ colour =, width =, max_rows = }]) -> text", summary = "The figure for a terminal, as text.",
    text = "By default as standard output can show it: coloured if it is a terminal and NO_COLOR is not set." },
  { name = "figure:show", signature = "figure:show([options]) -> figure", summary = "Print figure:text." },
}
