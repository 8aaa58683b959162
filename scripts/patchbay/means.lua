-- Means of a site over a data set, in one pass that keeps only the sums. ablate.means is means.of.
local pb = require "patchbay"

local means = {}

-- Prompts from what may be given: a set (its clean prompts), a list of pairs' runs, texts or lists of ids.
function means.prompts(data, name)
  local list = {}
  for i = 1, #data do
    local entry = data[i]
    list[i] = getmetatable(data) == "set" and entry.clean or type(entry) == "table" and entry.run or entry
  end
  if #list == 0 then pb.fail("%s: the data set is empty", name or "ablate") end
  return list
end

-- Runs of prompts in their order; those that are runs already stay.
function means.runs(model, prompts)
  local texts, at = {}, 0
  for _, prompt in ipairs(prompts) do
    if getmetatable(prompt) ~= "run" then texts[#texts + 1] = prompt end
  end
  local made, runs = #texts > 0 and model:runs(texts) or {}, {}
  for i, prompt in ipairs(prompts) do
    if getmetatable(prompt) == "run" then runs[i] = prompt else at, runs[i] = at + 1, made[at + 1] end
  end
  return runs
end

-- means.of(model, data, site [, { positions = "each" | "all", batch = 64 }]) -> list by layer (from 1) of tensors: [pos, ...] with
-- "each", [1, ...] with "all" (every position of every prompt counts once). One pass over the data; only the sums are kept.
function means.of(model, data, site, given)
  local o = pb.options(given, { positions = "each", batch = 64 }, "ablate.means")
  pb.one_of(o.positions, { "each", "all" }, "ablate.means: positions")
  local info, prompts, sums, count, length = model:site(site), means.prompts(data), {}, 0, nil
  local axes = {}
  for _, axis in ipairs(info.axes) do axes[axis] = true end
  if axes.dest then pb.fail("ablate.means: site '%s' has no positions to average over; its values depend on the prompt's length", site) end
  for first = 1, #prompts, o.batch do
    local runs = means.runs(model, { table.unpack(prompts, first, math.min(first + o.batch - 1, #prompts)) })
    for _, run in ipairs(runs) do
      length = length or #run
      if o.positions == "each" and #run ~= length then
        pb.fail("ablate.means: prompts of %d and %d tokens have no mean position by position: positions = \"all\"", length, #run)
      end
      count = count + (o.positions == "all" and #run or 1)
      for i, layer in ipairs(info.layers or { false }) do
        local value = layer and run:value(site, layer) or run[site]
        if o.positions == "all" then value = value:sum(0, true) end
        sums[i] = sums[i] and sums[i]:add_(value) or value
      end
    end
  end
  local list = {}
  for i, layer in ipairs(info.layers or { 0 }) do list[layer + 1] = sums[i] / count end
  return list
end

-- The part of a mean [pos, (head,) width] that stands at a place.
function means.at(mean, place, length)
  local function along(axis, c, extent)
    if c == nil or c == "all" then return end
    if type(c) ~= "table" then c = { c } end
    local at = {}
    for i, x in ipairs(c) do at[i] = x < 0 and x + extent or x end
    mean = mean:index(axis, at)
  end
  if mean.shape[1] > 1 or length == 1 then along(0, place.pos, length) end
  if mean.ndim == 3 then along(1, place.head, mean.shape[2]) end
  along(mean.ndim - 1, place.neuron, mean.shape[mean.ndim])
  return mean
end

return means
