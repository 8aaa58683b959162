return {
  { name = "grid", summary = "Numbers with named axes and labels: what a sweep gives.",
    text = [[
Fields: values (a tensor, one axis for each name), axes (list of names), coords (axis -> list of coordinates), labels (axis -> list of
texts), unit, kind ("value", "recovered", "change"), base (the metric of the run that was patched), target (of the run that the values
came from), se (standard error over pairs), parts (each pair's grid), name, metric, about (model, prompts, site ...).
Grids with the same axes, and numbers, can be added, subtracted, multiplied and divided; parts go along.]] },
  { name = "grid:recovered", signature = "grid:recovered([\"each\"]) -> grid", summary = "The recovered share, (x - base) / (target - base).",
    text = [[
0: as the run that was patched; 1: as the run that the values came from. Over pairs: the mean of x - base divided by the mean of
target - base (as TransformerLens and the IOI paper do), with a standard error by the delta method; "each": the mean of every pair's own share,
which a pair with a small difference can dominate.]] },
  { name = "grid:change", signature = "grid:change() -> grid", summary = "x - base: how far each patch moved the metric." },
  { name = "grid:abs", signature = "grid:abs() -> grid", summary = "Absolute values." },
  { name = "grid:get", signature = "grid:get { layer = 3, pos = -1 } -> number [, se]", summary = "One cell, by its coordinates on every axis." },
  { name = "grid:select", signature = "grid:select { layer = 3 } -> grid", summary = "The cells with these coordinates; those axes are gone." },
  { name = "grid:transpose", signature = "grid:transpose([order]) -> grid", summary = "Axes reversed, or in the order of a list of names." },
  { name = "grid:titled", signature = "grid:titled(text) -> grid", summary = "The same with a name, which figures show." },
  { name = "grid:max", signature = "grid:max() -> number", summary = "The largest value." },
  { name = "grid:min", signature = "grid:min() -> number", summary = "The smallest value." },
  { name = "grid:top", signature = "grid:top(k [, \"high\" | \"low\" | \"abs\"]) -> list of cells", summary = "The k most extreme cells, the first one first.",
    text = [[
A cell is a table: a coordinate for each axis (cell.layer, cell.head), value, se where there is one, and the label of a position
(token, dest_token, src_token). NaN cells are left out.]] },
  { name = "grid:cells", signature = "grid:cells() -> list of cells", summary = "All cells in order, the last axis fastest." },
  { name = "grid:heatmap", signature = "grid:heatmap(path [, options]) -> grid", summary = "Draw into a .png, .svg or .pdf file.",
    text = [[
Two axes make the plane (layer and pos, layer and head, dest and src, or those that are left); every combination of the others is
a panel. Options: title, subtitle, caption, mark (positions to emphasise, as run:find gives them), panels (the axis or axes that become
panels), columns (panels side by side), colours ("auto", "sequential", "diverging", "purples", "greens", "reds", "greys"), range { low,
high }, numbers (in the cells), digits, transposed, pixel_scale.
The caption says what was measured and how it was normalised. The file holds the model, prompts, site, metric, seed and version.]] },
  { name = "grid:figure", signature = "grid:figure([options]) -> figure", summary = "The same figure without a file: save it, or show it." },
  { name = "grid:show", signature = "grid:show([{ mark =, panels =, colour =, width =, max_rows = }]) -> grid",
    summary = "Print the grid: coloured in a terminal, plain numbers elsewhere." },
  { name = "grid:save", signature = "grid:save(path) -> grid", summary = "Write a .csv (one row a cell) or a .safetensors with the facts as metadata." },
  { name = "pb.grid", signature = "pb.grid { values =, axes =, coords =, labels =, unit =, name =, base =, target =, se =, metric =, about = } -> grid",
    summary = "A grid of your own numbers.", text = "coords default to 0, 1, 2 ...; labels to the coordinates. metric (a text) and about (texts by name) go into figures.",
    example = [[pb.grid { values = drop:reshape(6, 4), axes = { "layer", "head" }, unit = "drop of log probability" }]] },
  { name = "pb.mean", signature = "pb.mean(list of grids) -> grid", summary = "Mean of grids with equal axes, cell by cell, with its standard error." },
}
