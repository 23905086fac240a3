// The weight memory of a PE in the single-port RAM of the iCE40UP5K, 16,384 words of 16 bits each.
//
// It has a write port, a read port and one address: while a word is written nothing is read. Words
// are written while the host loads weights, and read while a network runs.
(* techmap_celltype = "$mem_v2" *)
module _zeroskip_spram (RD_CLK, RD_EN, RD_ARST, RD_SRST, RD_ADDR, RD_DATA,
                        WR_CLK, WR_EN, WR_ADDR, WR_DATA);
  parameter MEMID = "";
  parameter SIZE = 0;
  parameter OFFSET = 0;
  parameter ABITS = 1;
  parameter WIDTH = 1;
  parameter signed INIT = 0;
  parameter RD_PORTS = 1;
  parameter RD_CLK_ENABLE = 1;
  parameter RD_CLK_POLARITY = 1;
  parameter RD_TRANSPARENCY_MASK = 0;
  parameter RD_COLLISION_X_MASK = 0;
  parameter RD_WIDE_CONTINUATION = 0;
  parameter RD_CE_OVER_SRST = 0;
  parameter RD_ARST_VALUE = 0;
  parameter RD_SRST_VALUE = 0;
  parameter RD_INIT_VALUE = 0;
  parameter WR_PORTS = 1;
  parameter WR_CLK_ENABLE = 1;
  parameter WR_CLK_POLARITY = 1;
  parameter WR_PRIORITY_MASK = 0;
  parameter WR_WIDE_CONTINUATION = 0;

  input RD_CLK, RD_EN, RD_ARST, RD_SRST, WR_CLK;
  input [ABITS-1:0] RD_ADDR, WR_ADDR;
  input [WIDTH-1:0] WR_EN, WR_DATA;
  output [WIDTH-1:0] RD_DATA;

  wire _TECHMAP_FAIL_ = RD_PORTS != 1 || WR_PORTS != 1 || ABITS > 14 || WIDTH % 16;
  wire write = WR_EN[0];
  wire [13:0] address = write ? WR_ADDR : RD_ADDR;

  genvar k;
  generate
    for (k = 0; k < WIDTH / 16; k = k + 1) begin : word
      SB_SPRAM256KA ram (
        .CLOCK(RD_CLK), .CHIPSELECT(write | RD_EN), .WREN(write), .MASKWREN(4'b1111),
        .ADDRESS(address), .DATAIN(WR_DATA[16*k +: 16]), .DATAOUT(RD_DATA[16*k +: 16]),
        .STANDBY(1'b0), .SLEEP(1'b0), .POWEROFF(1'b1));
    end
  endgenerate
endmodule
