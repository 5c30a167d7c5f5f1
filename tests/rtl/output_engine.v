// An output-stationary array with its operand memories, its control and its result memory.
//
// result[x][y] = sum over d of left[x][d] * top[y][d], in words of LANES numbers. Fold f makes the
// results of row block f / blocks and column block f % blocks over all of the sum; folds without
// `occupied` are passed over in no time. A fold begins as soon as it may: serial once the last
// result of the fold before is out, double buffered once the way out is free again when it ends.
module output_engine #(
  parameter ROWS = 4,
  parameter COLUMNS = 4,
  parameter LANES = 1,
  parameter LEFT_BITS = 8,
  parameter TOP_BITS = 8,
  parameter DOUBLE = 0,
  parameter DRAIN = 1,
  parameter WORDS = 4096,  // of each operand and of the result
  parameter FOLDS = 256
) (
  input clk,
  input reset,
  input [31:0] x_size,
  input [31:0] y_size,
  input [31:0] depth,
  output reg finished,
  output reg [31:0] cycles  // clocks from the first word in to the last result out
);
  localparam LEFT = LANES * LEFT_BITS;
  localparam TOP = LANES * TOP_BITS;

  reg [LEFT-1:0] left_words [0:WORDS-1];
  reg [TOP-1:0] top_words [0:WORDS-1];
  reg signed [31:0] results [0:WORDS-1];
  reg occupied [0:FOLDS-1];

  wire [31:0] blocks = (y_size + COLUMNS - 1) / COLUMNS;
  wire [31:0] folds = blocks * ((x_size + ROWS - 1) / ROWS);

  function [31:0] from_fold(input [31:0] start);  // the first occupied fold at or behind `start`
    reg [31:0] candidate;
    begin
      candidate = start;
      while (candidate < folds && !occupied[candidate]) candidate = candidate + 1;
      from_fold = candidate;
    end
  endfunction

  // control
  reg [31:0] next_fold, stream_fold, step, wait_clocks;
  reg is_busy;
  wire [COLUMNS-1:0] valid_down;
  wire [COLUMNS*32-1:0] drained;
  wire [ROWS*COLUMNS-1:0] valid_cells;
  wire [ROWS*COLUMNS*32-1:0] cells;
  reg [COLUMNS*32-1:0] out_count;  // results of a fold that left this column
  reg [ROWS*COLUMNS*32-1:0] out_fold;  // by column; without DRAIN by cell

  localparam LAST_PORT = (DRAIN != 0) ? COLUMNS - 1 : ROWS * COLUMNS - 1;
  wire is_last_result = (DRAIN != 0)
    ? valid_down[COLUMNS-1] && out_count[(COLUMNS-1)*32 +: 32] == ROWS - 1
    : valid_cells[ROWS*COLUMNS-1];
  wire may_begin = (DOUBLE != 0) ? wait_clocks == 0 : (!is_busy || is_last_result);
  wire begins = step == 0 && next_fold < folds && may_begin;
  wire streams = begins || step != 0;
  wire [31:0] fold = begins ? next_fold : stream_fold;

  always @(posedge clk)
    if (reset) begin
      next_fold <= from_fold(0);
      step <= 0;
      wait_clocks <= 0;
      is_busy <= 0;
    end else begin
      if (is_last_result) is_busy <= 0;
      if (wait_clocks != 0) wait_clocks <= wait_clocks - 1;
      if (begins) begin
        is_busy <= 1;
        wait_clocks <= (DRAIN != 0) ? ROWS - 1 : 0;
        stream_fold <= next_fold;
        next_fold <= from_fold(next_fold + 1);
      end
      if (streams) step <= step == depth - 1 ? 0 : step + 1;
    end

  // operands
  wire [ROWS*LEFT-1:0] left;
  wire [COLUMNS*TOP-1:0] top;
  genvar i, j;
  generate
    for (i = 0; i < ROWS; i = i + 1) begin : left_port
      wire [31:0] x = (fold / blocks) * ROWS + i;
      assign left[i*LEFT +: LEFT] =
        streams && x < x_size ? left_words[x * depth + step] : {LEFT{1'b0}};
    end
    for (j = 0; j < COLUMNS; j = j + 1) begin : top_port
      wire [31:0] y = (fold % blocks) * COLUMNS + j;
      assign top[j*TOP +: TOP] =
        streams && y < y_size ? top_words[y * depth + step] : {TOP{1'b0}};
    end
  endgenerate

  output_array #(ROWS, COLUMNS, LANES, LEFT_BITS, TOP_BITS, DRAIN) array (
    .clk(clk),
    .first(begins && !reset),
    .last(streams && !reset && step == depth - 1),
    .left(left),
    .top(top),
    .valid_down(valid_down),
    .drained(drained),
    .valid_cells(valid_cells),
    .cells(cells)
  );

  // results: the last row drains first (some versions of Verilator refuse arrays that a loop writes
  // without blocking, so counters are vectors and the memory is written at once)
  integer c;
  reg [31:0] x_out, y_out;
  always @(posedge clk)
    if (reset) begin
      cycles <= 0;
      finished <= from_fold(0) == folds;
      for (c = 0; c < COLUMNS; c = c + 1) out_count[c*32 +: 32] <= 0;
      for (c = 0; c < ROWS * COLUMNS; c = c + 1) out_fold[c*32 +: 32] <= from_fold(0);
    end else if (!finished) begin
      for (c = 0; c < COLUMNS; c = c + 1)
        if (DRAIN != 0 && valid_down[c]) begin
          x_out = (out_fold[c*32 +: 32] / blocks) * ROWS + ROWS - 1 - out_count[c*32 +: 32];
          y_out = (out_fold[c*32 +: 32] % blocks) * COLUMNS + c;
          if (x_out < x_size && y_out < y_size)
            results[x_out * y_size + y_out] = $signed(drained[c*32 +: 32]);
          out_count[c*32 +: 32] <= out_count[c*32 +: 32] + 1;
          if (out_count[c*32 +: 32] == ROWS - 1) begin
            out_count[c*32 +: 32] <= 0;
            out_fold[c*32 +: 32] <= from_fold(out_fold[c*32 +: 32] + 1);
          end
        end
      for (c = 0; c < ROWS * COLUMNS; c = c + 1)
        if (DRAIN == 0 && valid_cells[c]) begin
          x_out = (out_fold[c*32 +: 32] / blocks) * ROWS + c / COLUMNS;
          y_out = (out_fold[c*32 +: 32] % blocks) * COLUMNS + c % COLUMNS;
          if (x_out < x_size && y_out < y_size)
            results[x_out * y_size + y_out] = $signed(cells[c*32 +: 32]);
          out_fold[c*32 +: 32] <= from_fold(out_fold[c*32 +: 32] + 1);
        end
      if (is_last_result && from_fold(out_fold[LAST_PORT*32 +: 32] + 1) == folds) finished <= 1;
      else cycles <= cycles + 1;
    end
endmodule
