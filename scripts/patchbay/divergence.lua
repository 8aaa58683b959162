-- Where does a wrong answer go wrong? Follow the right token's rank through the residual stream at one position (the logit lens, with the
-- model's own final norm), find the step at which it is lost, and which component of the model does it.
local pb = require "patchbay"
local lens = require "patchbay.enrichment".lens

-- The states of the stream, in order: each block's input, after its attention where there is such a state, and the last output.
local function states_of(model)
  local list = {}
  local mid = pcall(model.site, model, "resid_mid")
  for layer = 0, model.layers - 1 do
    list[#list + 1] = { site = "resid_pre", layer = layer, by = layer == 0 and "embedding" or "MLP of layer " .. layer - 1,
                        writer = layer > 0 and { "mlp_out", layer - 1 } or nil }
    if mid then list[#list + 1] = { site = "resid_mid", layer = layer, by = "attention of layer " .. layer, writer = { "z", layer } } end
  end
  local last = model.layers - 1
  list[#list + 1] = { site = "resid_post", layer = last, by = "MLP of layer " .. last, writer = { "mlp_out", last } }
  if not mid then -- attention and MLP write together
    for _, state in ipairs(list) do
      if state.writer then state.by, state.writer = "layer " .. state.writer[2], { "both", state.writer[2] } end
    end
  end
  return list
end

local function measure_states(run, states, pos, metric)
  local requests = {}
  for i, state in ipairs(states) do requests[i] = { run = run, patches = lens(run, state.site, state.layer, pos), metric = metric } end
  return pb.measure(requests, { allow_unread = true }):tolist()
end

-- With a right run: the step from which on the token is first there (or, if it never is, ranked better there than here) and not here.
-- Without: the step that loses the token's best rank for good.
local function lost_at(ranks, right)
  local lost
  if right then
    local first_there = right[#right] == 0
    for i = #ranks, 1, -1 do
      if ranks[i] == 0 or ranks[i] <= right[i] or (first_there and right[i] > 0) then break end
      lost = i
    end
    return lost
  end
  local best = math.huge
  for i, rank in ipairs(ranks) do
    if rank <= best then best, lost = rank, i + 1 end
  end
  return lost <= #ranks and lost or nil
end

-- What each component does at the position: with a right run its value is taken from there, else it is taken away.
local function effects_of(run, right, pos, metric)
  local model, list, variants = run.model, {}, { {} }
  for layer = 0, model.layers - 1 do
    for head = 0, model.heads do
      local entry = head < model.heads and { site = "z", layer = layer, head = head, name = ("head %d.%d"):format(layer, head) }
                    or { site = "mlp_out", layer = layer, name = "MLP " .. layer }
      local patch = { site = entry.site, layer = layer, head = entry.head, pos = pos }
      if right then patch.from, patch.from_pos = right, pos - #run + #right else patch.zero = true end
      list[#list + 1], variants[#variants + 1] = entry, { patch }
    end
  end
  local values = run:measure(variants, metric, { allow_unread = true })
  for i, entry in ipairs(list) do entry.change = values:get(i) - values:get(0) end
  return list
end

local function largest(list, wanted)
  local best
  for _, entry in ipairs(list) do
    if wanted(entry) and (not best or entry.change > best.change) then best = entry end
  end
  return best
end

local meta = {}
function meta:__tostring()
  local lines = { ("'%s': the run answers '%s', the right answer is '%s' (rank %d)"):format(self.text, self.predicted, self.answer, self.rank) }
  for _, step in ipairs(self) do
    local there = step.right_rank and (" (right run %5d)"):format(step.right_rank) or ""
    lines[#lines + 1] = ("  %-22s rank %5d%s  logit difference %+8.3f%s"):format(step.by, step.rank, there, step.logit_diff,
      self.lost and step == self.lost and "  <- lost here" or "")
  end
  if self.culprit then
    lines[#lines + 1] = ("  %s: %s moves the logit difference by %+.3f; largest of all: %s, %+.3f"):format(self.culprit.name,
      self.against and "its value from the right run" or "taking it away", self.culprit.change, self.strongest.name, self.strongest.change)
  end
  return table.concat(lines, "\n")
end

-- divergence(run, { answer =, right = another run, pos = -1 }) -> steps { by =, rank =, logit_diff = }, with .lost (a step, or nil), .culprit
-- and .strongest ({ name =, site =, layer =, head =, change = }); prints as a table. Logit difference: the right token less the predicted one.
return function(run, given)
  local o = pb.options(given, { "answer", "right", pos = -1 }, "trace.divergence")
  if getmetatable(run) ~= "run" then pb.fail("trace.divergence: the first argument must be a run") end
  if o.right and getmetatable(o.right) ~= "run" then pb.fail("trace.divergence: right must be a run") end
  if o.answer == nil and not o.right then pb.fail("trace.divergence needs the right answer (answer = \" Paris\") or a run that gives it (right = run)") end
  local model, pos = run.model, o.pos < 0 and o.pos + #run or o.pos
  local answer = o.answer == nil and o.right:top(1)[1].id or (type(o.answer) == "string" and model:token(o.answer) or o.answer)
  local predicted = run:top(1, { pos = pos })[1]
  if predicted.id == answer then pb.fail("trace.divergence: '%s' is answered rightly: '%s'", run.text, predicted.token) end
  local states = states_of(model)
  local ranks = measure_states(run, states, pos, pb.metric.rank(answer, { pos = pos }))
  local diff = pb.metric.logit_diff(answer, predicted.id, { pos = pos })
  local diffs, right = measure_states(run, states, pos, diff), nil
  if o.right then
    local there = pos - #run + #o.right
    right = measure_states(o.right, states, there, pb.metric.rank(answer, { pos = there }))
  end
  local result = setmetatable({ text = run.text, answer = model.has_tokenizer and model:decode { answer } or tostring(answer), predicted = predicted.token,
                                rank = math.tointeger(ranks[#ranks]), against = o.right }, meta)
  for i, state in ipairs(states) do
    result[i] = { by = state.by, layer = state.layer, site = state.site, writer = state.writer, rank = math.tointeger(ranks[i]), logit_diff = diffs[i],
                  right_rank = right and math.tointeger(right[i]) }
  end
  local lost = lost_at(ranks, right)
  result.lost = lost and result[lost]
  local effects = effects_of(run, o.right, pos, diff)
  result.effects, result.strongest = effects, largest(effects, function() return true end)
  local writer = result.lost and result.lost.writer
  if writer then
    result.culprit = largest(effects, function(entry) return entry.layer == writer[2] and (writer[1] == "both" or entry.site == writer[1]) end)
  end
  return result
end
