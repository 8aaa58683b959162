-- Where does the model keep the fact that the Eiffel Tower is in Paris? Two prompts of the same length, one asking for Paris
-- and one for Rome. Put the residual stream of the first into the second, one layer and one token at a time, and see how
-- much of the answer comes back.        patchbay run examples/trace.lua [clean=... corrupt=... answer=... subject=...]
local pb = require "patchbay"
local arg = pb.params {
  model   = "facts",
  clean   = "The Eiffel Tower is located in the city of",
  corrupt = "The Roman Forum is located in the city of",
  answer  = " Paris", -- one token, with the space in front of it
  subject = "Eiffel Tower",
}

local model   = pb.load(arg.model)
local clean   = model:run(arg.clean)
local corrupt = clean:fork(arg.corrupt) -- an error if the prompts had different lengths: it would show both
local metric  = pb.metric.prob(arg.answer)
print(("probability of '%s': %.3f clean, %.3f corrupted"):format(arg.answer, metric(clean), metric(corrupt)))

-- All layers and positions in one pass over the weights. `from` is where the values come from.
local grid = corrupt:sweep { site = "resid_pre", over = { "layer", "pos" }, from = clean, metric = metric }

-- Raw values, and the share that came back: (x - corrupted) / (clean - corrupted). The subject's tokens are marked.
local back, subject = grid:recovered(), clean:find(arg.subject)
back:show { mark = subject }
pb.plot.panels { grid:titled "probability of the answer", back:titled "share that came back",
                 title = "Where is the " .. arg.subject .. "?", mark = subject }:save "trace.png"

for _, cell in ipairs(back:top(3)) do
  print(("before layer %d, at token %d '%s': %.0f %% of the answer comes back"):format(cell.layer, cell.pos, cell.token, 100 * cell.value))
end
