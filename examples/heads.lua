-- Which attention heads choose the name? "Mary and John went to the store, John gave a drink to": Mary, because John was said
-- twice. In the corrupted prompts Mary is said twice. Patch every head's output from clean to corrupted, average over pairs.
local pb = require "patchbay"
local model = pb.load "facts"
local set = pb.pairs(model, { -- refuses pairs of different length and answers of several tokens
  { clean = "When Mary and John went to the store, John gave a drink to", corrupt = "When Mary and John went to the store, Mary gave a drink to", answer = " Mary", wrong = " John" },
  { clean = "When Tom and Anna went to the park, Anna gave a ball to",    corrupt = "When Tom and Anna went to the park, Tom gave a ball to",    answer = " Tom",  wrong = " Anna" },
  { clean = "When Alice and Adam went to the school, Adam gave a book to", corrupt = "When Alice and Adam went to the school, Alice gave a book to", answer = " Alice", wrong = " Adam" },
  { clean = "When Simon and Emily went to the park, Emily gave a ball to", corrupt = "When Simon and Emily went to the park, Simon gave a ball to", answer = " Simon", wrong = " Emily" },
})
print(("the answer is the likeliest token in %.0f %% of the clean prompts"):format(100 * set:accuracy()))

local grid = set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_diff" }
local back = grid:recovered() -- mean over pairs; cells carry a standard error
for _, cell in ipairs(back:top(5)) do
  print(("head %d.%d brings back %+.3f ± %.3f of the logit difference"):format(cell.layer, cell.head, cell.value, cell.se))
end
back:heatmap("heads.png", { title = "Heads that choose the name" })
back:save "heads.csv"
