/* What the firmware loads from the disk and starts: copies sectors 1..=64 to 128..=191 with the firmware's own calls,
   says the line that they begin with on the first serial port, and powers off. */

#define SECTORS 64
#define FROM 1
#define TO 128
#define BUFFER_SEGMENT 0x1000

        .code16
        .globl _start
_start:
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7c00, %sp
        mov     $packet, %si            /* %dl is the disk, from the firmware */
        mov     $0x4200, %ax            /* extended read */
        int     $0x13
        jc      off
        movl    $TO, block
        mov     $0x4300, %ax            /* extended write */
        int     $0x13
        jc      off
        mov     $BUFFER_SEGMENT, %ax
        mov     %ax, %ds
        xor     %si, %si
say:
        lodsb
        mov     %al, %bl
busy:
        mov     $0x3fd, %dx             /* line status: transmitter empty */
        in      %dx, %al
        test    $0x20, %al
        jz      busy
        mov     $0x3f8, %dx
        mov     %bl, %al
        out     %al, %dx
        cmp     $'\n', %al
        jne     say
off:
        mov     $0x604, %dx             /* PM1a control of q35: sleep state S5 */
        mov     $0x2000, %ax
        out     %ax, %dx
        hlt
        jmp     off

        .balign 4
packet:
        .byte   16, 0
        .word   SECTORS
        .word   0, BUFFER_SEGMENT       /* offset and segment */
block:
        .long   FROM, 0

        .org    510
        .byte   0x55, 0xaa
