// Runs the cases of the file CASES on one engine; writes cycles and results of each to RESULTS.
//
// A case is one line of decimals, `x y depth folds numbers`, then the occupied bits, the left words
// and the top words in hexadecimal. `numbers` is how many pairs were multiplied per result: with
// one-bit operands the engine counts equal bits and the result is 2 * equal - numbers.
`timescale 1ns / 1ps
module bench;
  parameter ROWS = 4;
  parameter COLUMNS = 4;
  parameter LANES = 1;
  parameter LEFT_BITS = 8;
  parameter TOP_BITS = 8;
  parameter OUTPUT_STATIONARY = 0;
  parameter DOUBLE = 0;
  parameter DRAIN = 1;
  parameter WORDS = 4096;
  parameter FOLDS = 256;
  parameter LIMIT = 100000;  // clocks after which a case has failed
  parameter CASES = "cases.txt";
  parameter RESULTS = "results.txt";

  reg clk = 0;
  reg is_done = 0;
  reg reset = 1;
  reg [31:0] x, y, d, folds, numbers;  // as the file says
  reg [31:0] x_size, y_size, depth;  // as the engine sees them
  wire finished;
  wire [31:0] cycles;

  generate
    if (OUTPUT_STATIONARY != 0) begin : chosen
      output_engine #(
        ROWS, COLUMNS, LANES, LEFT_BITS, TOP_BITS, DOUBLE, DRAIN, WORDS, FOLDS
      ) engine (
        .clk(clk), .reset(reset), .x_size(x_size), .y_size(y_size), .depth(depth),
        .finished(finished), .cycles(cycles)
      );
    end else begin : chosen
      stationary_engine #(
        ROWS, COLUMNS, LANES, LEFT_BITS, TOP_BITS, DOUBLE, DRAIN, WORDS, FOLDS
      ) engine (
        .clk(clk), .reset(reset), .x_size(x_size), .y_size(y_size), .depth(depth),
        .finished(finished), .cycles(cycles)
      );
    end
  endgenerate

  reg [LANES*LEFT_BITS-1:0] left_word;
  reg [LANES*TOP_BITS-1:0] top_word;
  reg bit_;
  integer cases, results, found, number, clocks, value;

  initial while (!is_done) #5 clk = ~clk;

  // The sizes pass a register: Verilator 5.006 does not derive anything from what a process that
  // waits has written.
  always @(posedge clk) begin
    x_size <= x;
    y_size <= y;
    depth <= d;
  end

  initial begin
    cases = $fopen(CASES, "r");
    results = $fopen(RESULTS, "w");
    found = $fscanf(cases, "%d %d %d %d %d", x, y, d, folds, numbers);
    while (found == 5) begin
      for (number = 0; number < folds; number = number + 1) begin
        found = $fscanf(cases, "%h", bit_);
        chosen.engine.occupied[number] = bit_;
      end
      for (number = 0; number < x * d; number = number + 1) begin
        found = $fscanf(cases, "%h", left_word);
        chosen.engine.left_words[number] = left_word;
      end
      for (number = 0; number < y * d; number = number + 1) begin
        found = $fscanf(cases, "%h", top_word);
        chosen.engine.top_words[number] = top_word;
      end
      for (number = 0; number < x * y; number = number + 1)
        chosen.engine.results[number] = 0;

      reset = 1;
      @(posedge clk);
      @(posedge clk);
      @(negedge clk);
      reset = 0;
      clocks = 0;
      while (!finished && clocks < LIMIT) begin
        @(negedge clk);
        clocks = clocks + 1;
      end
      if (finished) $fwrite(results, "%0d", cycles);
      else $fwrite(results, "-1");
      for (number = 0; number < x * y; number = number + 1) begin
        value = chosen.engine.results[number];
        if (LEFT_BITS == 1 && TOP_BITS == 1) value = 2 * value - numbers;
        $fwrite(results, " %0d", value);
      end
      $fwrite(results, "\n");
      found = $fscanf(cases, "%d %d %d %d %d", x, y, d, folds, numbers);
    end
    $fclose(results);
    is_done = 1;
  end
endmodule
