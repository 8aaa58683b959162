-- What a checkpoint holds besides weights and moments: which run it is of, and how far that has come, as two texts. Numbers are
-- written so that they come back bit for bit.
local checkpoints = {}

-- A text of what must be the same for a run to go on from a checkpoint. The schedule by its values at some steps.
function checkpoints.identity(o)
  local parts = { o.about or "", o.model.family, tostring(o.model.parameters), ("steps %d"):format(o.steps),
                  ("betas %.17g %.17g"):format(o.betas[1], o.betas[2]), ("eps %.17g clip %.17g"):format(o.eps, o.clip or 0),
                  type(o.decay) == "number" and ("decay %.17g"):format(o.decay) or "decay by name",
                  o.dropout and ("dropout %.17g seed %d"):format(o.dropout.rate, o.dropout.seed) or "no dropout" }
  for i = 0, 8 do parts[#parts + 1] = ("%.9g"):format(o.rate((o.steps - 1) * i // 8)) end
  return table.concat(parts, "; ")
end

-- The state of a run: step (the next one), tokens, seconds, sum and count (of the losses since the last point of the log), log.
function checkpoints.text(s)
  local text = { ("step=%d;tokens=%d;seconds=%.17g;sum=%.17g;count=%d"):format(s.step, s.tokens, s.seconds, s.sum, s.count) }
  for _, row in ipairs(s.log) do
    local names, parts = {}, {}
    for name in pairs(row) do names[#names + 1] = name end
    table.sort(names)
    for i, name in ipairs(names) do parts[i] = ((math.type(row[name]) == "integer") and "%s=%d" or "%s=%.17g"):format(name, row[name]) end
    text[#text + 1] = table.concat(parts, ";")
  end
  return table.concat(text, "\n")
end

function checkpoints.state(text)
  local function fields(line)
    local row = {}
    for name, value in line:gmatch "([^=;]+)=([^=;]+)" do row[name] = tonumber(value) end
    return row
  end
  local state
  for line in text:gmatch "[^\n]+" do
    if not state then
      state = fields(line)
      state.log = {}
    else
      state.log[#state.log + 1] = fields(line)
    end
  end
  return state
end

return checkpoints
