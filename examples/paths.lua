-- By which way does the name reach the answer? Path patching (Wang et al. 2022): every head's direct way to the logits, what passes through
-- MLPs on the way, and what feeds the most important one, through its queries, keys and values.
local pb = require "patchbay"
local path, tasks = require "patchbay.path", require "patchbay.tasks"
local arg = pb.params { model = "facts", n = 20, seed = 1 }
local set = tasks.ioi(pb.load(arg.model), { n = arg.n, seed = arg.seed })

local function say(title, grid, k)
  print(title)
  for _, cell in ipairs(grid:top(k, "abs")) do print(("  head %d.%d  %+.3f ± %.3f"):format(cell.layer, cell.head, cell.value, cell.se)) end
end

local live   = path.sweep(set, { senders = "heads", receiver = "logits" }):recovered()
local direct = path.sweep(set, { senders = "heads", receiver = "logits", mlps = "frozen" }):recovered()
say("to the logits, also through MLPs (share of the logit difference brought back):", live, 4)
say("the direct edge alone:", direct, 4)

-- Who tells the most important head what to pass on? Everything that writes before it, into its queries, keys and values.
local mover, panels = live:top(1, "abs")[1], { live:titled "to the logits, MLPs live", direct:titled "direct edge" }
for _, site in ipairs { "q", "k", "v" } do
  local grid = path.sweep(set, { senders = "components", receiver = { site = site, heads = { mover } }, mlps = "frozen" }):recovered()
  local words = {}
  for i, cell in ipairs(grid:top(3, "abs")) do words[i] = ("%s %+.3f"):format(grid.labels.sender[cell.sender + 1], cell.value) end
  print(("into %s of %d.%d: %s"):format(site, mover.layer, mover.head, table.concat(words, ", ")))
end
pb.plot.panels(panels):save "paths.png"
