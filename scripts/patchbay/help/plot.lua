return {
  { name = "plot", summary = "Figures of one kind in one call; each gives a figure: save it, or show it.",
    text = [[
Every function takes title, subtitle, caption, columns and pixel_scale too, and facts, a table of texts that is written into the file.]],
    example = [[pb.plot.panels { before:titled "before", after:titled "after" }:save "moved.png"]] },
  { name = "pb.plot.panels", signature = "pb.plot.panels { grid, grid, ..., mark =, scales =, colours =, range =, numbers =, panels = } -> figure",
    summary = "Heat maps side by side; those with the same unit share one colour scale.",
    text = "scales: \"auto\", \"shared\" (all), \"own\" (none). mark: positions to emphasise. A grid's title is its name (grid:titled)." },
  { name = "pb.plot.line", signature = "pb.plot.line { series, ..., x =, y =, log_x =, log_y =, x_labels =, x_range =, y_range =, levels =, level_labels = } -> figure",
    summary = "Lines. A series is { y =, x =, label =, low =, high =, error_bars =, dashed =, markers = }.",
    text = [[
y: a tensor, a list, or a grid with one axis (labels and 95 % intervals from its standard error come along). x: numbers, or a text, which
is the axis' title. low and high: ends of intervals. The figure's x and y are titles; levels are dashed horizontal lines.]],
    example = [[pb.plot.line { { x = "layer", y = drop, label = "knocked out" } }:save "knockout.png"]] },
  { name = "pb.plot.bar", signature = "pb.plot.bar { values =, labels =, series_labels =, low =, high =, x =, y =, y_range =, numbers = } -> figure",
    summary = "Bars. values: a list, a tensor [groups] or [series, groups], or a grid." },
  { name = "pb.plot.scatter", signature = "pb.plot.scatter { x =, y =, labels =, classes =, class_labels =, identity =, x_title =, y_title =, log_x =, log_y = } -> figure",
    summary = "Points. x and y: lists, tensors or grids of one size; identity draws the line y = x.",
    text = "classes: for each point its place (from 1) in class_labels, which gives colour and legend." },
  { name = "pb.plot.attention", signature = "pb.plot.attention(run, heads [, { mark =, range =, colours =, columns =, title = }]) -> figure",
    summary = "Attention patterns of chosen heads, with the tokens as labels.",
    text = "heads: a list of { layer = 3, head = 1 } or { 3, 1 }: what grid:top gives can be passed on." },
}
