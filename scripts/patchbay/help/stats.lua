return {
  { name = "stats", summary = "Statistics beside patching: where attention goes, bootstrap intervals, correlations.",
    text = "pb.stats has the functions; require \"patchbay.stats\" gives the same." },
  { name = "pb.stats.attention", signature = "pb.stats.attention(set [, { dest = -1, src =, side = \"clean\", heads = false }]) -> grid [layer, src]",
    summary = "The attention of one destination to each position, mean over heads and pairs. Not causal.",
    text = [[
dest: a position, or a name of the pairs' positions (mean over its tokens). src: positions or names (summed over their tokens); by default every
position, or, where prompts differ in length, the names that all pairs have. heads = true: grid [layer, head, src].]] },
  { name = "pb.stats.bootstrap", signature = "pb.stats.bootstrap(values [, { n = 1000, level = 0.95, seed = }]) -> { mean =, se =, low =, high = }",
    summary = "The percentile bootstrap interval of a mean.",
    text = "values: a list or tensor of numbers, a tensor [n, ...] of rows, or a grid over pairs (its parts): tensors in the grid's shape then." },
  { name = "pb.stats.correlation", signature = "pb.stats.correlation(a, b [, \"rank\" | \"linear\"]) -> number",
    summary = "Spearman's rank correlation (equal values share their mean rank), or Pearson's.",
    text = "Lists, tensors or grids of one size. NaN where one of them does not vary." },
}
