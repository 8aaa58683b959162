-- Where does the model keep the fact that the Eiffel Tower is in Paris? Two prompts of the same length, one asking for Paris
-- and one for Rome. Put the residual stream of the first into the second, one layer and one token at a time, and see how
-- much of the answer comes back. The place of the facts of "facts" was planted in training; "facts-free" beside it was told nothing.
--                                   patchbay run examples/trace.lua [clean=... corrupt=... answer=... subject=... model=... beside=]
local pb = require "patchbay"
local arg = pb.params {
  model   = "facts",
  beside  = "facts-free", -- a second model for the same prompts, or nothing
  clean   = "The Eiffel Tower is located in the city of",
  corrupt = "The Roman Forum is located in the city of",
  answer  = " Paris", -- one token, with the space in front of it
  subject = "Eiffel Tower",
}
local metric = pb.metric.prob(arg.answer)

local function trace(name)
  local model   = pb.load(name)
  local clean   = model:run(arg.clean)
  local corrupt = clean:fork(arg.corrupt) -- an error if the prompts had different lengths: it would show both
  print(("%s: probability of '%s': %.3f clean, %.3f corrupted"):format(name, arg.answer, metric(clean), metric(corrupt)))
  -- All layers and positions in one pass over the weights. `from` is where the values come from.
  local grid = corrupt:sweep { site = "resid_pre", over = { "layer", "pos" }, from = clean, metric = metric }
  -- The share that came back: (x - corrupted) / (clean - corrupted).
  return grid:recovered():titled(name), clean:find(arg.subject)
end

local back, subject = trace(arg.model)
back:show { mark = subject } -- the subject's tokens are marked
local planted = arg.model == "facts" and "The place of the facts of 'facts' was planted in training; 'facts-free' was told nothing." or nil
pb.plot.panels { back, arg.beside ~= "" and trace(arg.beside) or nil, title = "Where is the " .. arg.subject .. "?", subtitle = planted,
                 mark = subject }:save "trace.png"

for _, cell in ipairs(back:top(3)) do
  print(("before layer %d, at token %d '%s': %.0f %% of the answer comes back"):format(cell.layer, cell.pos, cell.token, 100 * cell.value))
end
