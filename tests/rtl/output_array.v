// ROWS x COLUMNS cells that hold one result each while both operands pass (output stationary).
//
// The last product of a fold moves the sum to `result` and frees the cell for the next fold. With
// DRAIN the results then move down, two registers per row: the first of the fold to reach a cell
// from above comes one clock behind the cell's own, so none meets another while folds are at least
// ROWS clocks apart. Without DRAIN every cell has a port of its own: hypothetical, but the rule by
// which some simulators count.
module output_cell #(
  parameter LANES = 1,
  parameter LEFT_BITS = 8,
  parameter TOP_BITS = 8,
  parameter DRAIN = 1
) (
  input clk,
  input first,  // the first product of a fold
  input last,  // its last product
  input [LANES*LEFT_BITS-1:0] left,
  input [LANES*TOP_BITS-1:0] top,
  input valid_above,
  input signed [31:0] above,
  output reg first_right,
  output reg last_right,
  output reg [LANES*LEFT_BITS-1:0] right,
  output reg [LANES*TOP_BITS-1:0] down,
  output reg valid,
  output reg signed [31:0] result,
  output reg valid_below,
  output reg signed [31:0] below
);
  reg signed [31:0] sum;
  wire signed [31:0] product;
  wire signed [31:0] total = (first ? 0 : sum) + product;

  lanes #(LANES, LEFT_BITS, TOP_BITS) multiply (.left(left), .top(top), .sum(product));

  initial begin
    first_right = 0;
    last_right = 0;
    valid = 0;
    valid_below = 0;
  end

  always @(posedge clk) begin
    first_right <= first;
    last_right <= last;
    right <= left;
    down <= top;
    sum <= total;
    valid <= last || (DRAIN != 0 && valid_above);
    if (last) result <= total;
    else if (DRAIN != 0) result <= above;
    valid_below <= valid;
    below <= result;
  end
endmodule

module output_array #(
  parameter ROWS = 4,
  parameter COLUMNS = 4,
  parameter LANES = 1,
  parameter LEFT_BITS = 8,
  parameter TOP_BITS = 8,
  parameter DRAIN = 1
) (
  input clk,
  input first,
  input last,
  input [ROWS*LANES*LEFT_BITS-1:0] left,  // row 0 in the lowest bits, all rows at once
  input [COLUMNS*LANES*TOP_BITS-1:0] top,  // column 0 in the lowest bits, all columns at once
  output [COLUMNS-1:0] valid_down,  // `drained` of this column is a result
  output [COLUMNS*32-1:0] drained,
  output [ROWS*COLUMNS-1:0] valid_cells,  // the cell just got a result, its own or another's
  output [ROWS*COLUMNS*32-1:0] cells
);
  localparam LEFT = LANES * LEFT_BITS;
  localparam TOP = LANES * TOP_BITS;

  wire [ROWS*(LEFT+2)-1:0] entering, from_left;
  wire [COLUMNS*TOP-1:0] from_top;
  wire [LEFT+1:0] across [0:ROWS-1][0:COLUMNS];
  wire [TOP-1:0] downward [0:ROWS][0:COLUMNS-1];
  wire [32:0] leaving [0:ROWS][0:COLUMNS-1];
  wire [32:0] own [0:ROWS-1][0:COLUMNS-1];

  skew #(ROWS, LEFT + 2) skew_left (.clk(clk), .in(entering), .out(from_left));
  skew #(COLUMNS, TOP) skew_top (.clk(clk), .in(top), .out(from_top));

  genvar i, j;
  generate
    for (i = 0; i < ROWS; i = i + 1) begin : left_edge
      assign entering[i*(LEFT+2) +: LEFT+2] = {first, last, left[i*LEFT +: LEFT]};
      assign across[i][0] = from_left[i*(LEFT+2) +: LEFT+2];
    end
    for (j = 0; j < COLUMNS; j = j + 1) begin : edges
      assign downward[0][j] = from_top[j*TOP +: TOP];
      assign leaving[0][j] = 0;
      assign valid_down[j] = leaving[ROWS][j][32];
      assign drained[j*32 +: 32] = leaving[ROWS][j][31:0];
    end
    for (i = 0; i < ROWS; i = i + 1) begin : row
      for (j = 0; j < COLUMNS; j = j + 1) begin : column
        assign valid_cells[i*COLUMNS+j] = own[i][j][32];
        assign cells[(i*COLUMNS+j)*32 +: 32] = own[i][j][31:0];
        output_cell #(LANES, LEFT_BITS, TOP_BITS, DRAIN) cell_ (
          .clk(clk),
          .first(across[i][j][LEFT+1]),
          .last(across[i][j][LEFT]),
          .left(across[i][j][LEFT-1:0]),
          .top(downward[i][j]),
          .valid_above(leaving[i][j][32]),
          .above(leaving[i][j][31:0]),
          .first_right(across[i][j+1][LEFT+1]),
          .last_right(across[i][j+1][LEFT]),
          .right(across[i][j+1][LEFT-1:0]),
          .down(downward[i+1][j]),
          .valid(own[i][j][32]),
          .result(own[i][j][31:0]),
          .valid_below(leaving[i+1][j][32]),
          .below(leaving[i+1][j][31:0])
        );
      end
    end
  endgenerate
endmodule
