-- The loss of a training run as its log has it: lines of progress, CSV, figure.
local pb = require "patchbay"

local curve = {}

local COLUMNS = { "step", "tokens", "loss", "mean_loss_since_last", "rate", "gradient_norm", "seconds" }

local function columns_of(log)
  local columns, extra, seen = table.move(COLUMNS, 1, #COLUMNS, 1, {}), {}, {}
  for _, name in ipairs(COLUMNS) do seen[name] = true end
  for _, row in ipairs(log) do
    for name in pairs(row) do
      if not seen[name] then
        seen[name] = true
        extra[#extra + 1] = name
      end
    end
  end
  table.sort(extra)
  return table.move(extra, 1, #extra, #columns + 1, columns)
end

-- curve.write(log, name): NAME.csv and NAME.png of a log as train.run gives it.
function curve.write(log, name)
  pb.write(name .. ".csv", log, { columns = columns_of(log) })
  if #log < 2 then return end
  local x, y, mean = {}, {}, {}
  for i, row in ipairs(log) do x[i], y[i], mean[i] = row.step, row.loss, row.mean_loss_since_last end
  pb.plot.line { { x = x, y = mean, label = "mean since the last point" }, { x = x, y = y, label = "of this step", dashed = true },
                 x = "step", y = "loss (nats per token)", title = "Training loss" }:save(name .. ".png")
end

local function duration(seconds)
  local s = math.floor(seconds + 0.5)
  if s < 60 then return ("%d s"):format(s) end
  if s < 3600 then return ("%d min %02d s"):format(s // 60, s % 60) end
  return ("%d h %02d min"):format(s // 3600, s % 3600 // 60)
end

-- curve.line(row of the log, steps in all, tokens and seconds of this session, steps of it): one line of progress.
function curve.line(row, steps, tokens, seconds, done)
  local left = seconds * (steps - 1 - row.step) / math.max(1, done)
  local parts = { ("step %d of %d: loss %.4f (mean %.4f), rate %.3g, norm %.3g"):format(row.step, steps, row.loss, row.mean_loss_since_last, row.rate, row.gradient_norm),
                  ("%.0f tokens/s, %s left"):format(tokens / math.max(seconds, 1e-9), duration(left)) }
  local columns = columns_of { row }
  for i = #COLUMNS + 1, #columns do parts[#parts + 1] = ("%s %.4g"):format(columns[i], row[columns[i]]) end
  return table.concat(parts, "; ")
end

return curve
