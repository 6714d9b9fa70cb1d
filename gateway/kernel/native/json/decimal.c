/* Numbers as JSON has them, to doubles and back.
 *
 * A product of the digits and a power of five, 128 bits of it, gives the nearest double, unless it
 * lies so near to the middle between two doubles that the bits that were cut off decide. Such a
 * number, which engines do not send, is left to Python.
 */
#include "json.h"
#include "powers.h"

#include <float.h>

#define FIRST_FIXED (-5) /* the power of ten from which msgspec writes 0.00001 in place of 1e-5 */
#define FIRST_SCIENTIFIC 16
#define SAFE_DIGITS 15 /* any two such numbers are two doubles */
#define SLACK 16      /* more than what the cut off bits add up to */

typedef unsigned __int128 Wide;

static bool take_digits(Reader *reader, Decimal *decimal, int power_of_each)
{
    const uint8_t *from = reader->at, *at = from, *end = reader->end;
    uint64_t digits = decimal->digits;
    for (; at < end && is_digit(*at); at++) {
        if (digits > (UINT64_MAX - 9) / 10)
            return false;
        digits = digits * 10 + (uint64_t)(*at - '0');
    }
    if (at - from > 9999)
        return false;
    decimal->digits = digits;
    decimal->power += (int)(at - from) * power_of_each;
    reader->at = at;
    return at > from;
}

static bool take_exponent(Reader *reader, Decimal *decimal)
{
    bool negative = false;
    int exponent = 0;
    if (reader->at < reader->end && (*reader->at == '-' || *reader->at == '+'))
        negative = *reader->at++ == '-';
    const uint8_t *from = reader->at;
    while (reader->at < reader->end && is_digit(*reader->at)) {
        exponent = exponent * 10 + (*reader->at++ - '0');
        if (exponent > 999)
            return false;
    }
    decimal->power += negative ? -exponent : exponent;
    return reader->at > from;
}

bool take_decimal(Reader *reader, Decimal *decimal)
{
    memset(decimal, 0, sizeof *decimal);
    skip_space(reader);
    decimal->text.data = reader->at;
    if (reader->at < reader->end && *reader->at == '-') {
        decimal->negative = true;
        reader->at++;
    }
    const uint8_t *from = reader->at;
    if (!take_digits(reader, decimal, 0))
        return false;
    if (*from == '0' && reader->at - from > 1)
        return false;
    if (reader->at < reader->end && *reader->at == '.') {
        decimal->is_float = decimal->is_fixed = true;
        reader->at++;
        if (!take_digits(reader, decimal, -1))
            return false;
    }
    if (reader->at < reader->end && (*reader->at | 0x20) == 'e') {
        decimal->is_float = true;
        decimal->is_fixed = false;
        reader->at++;
        if (!take_exponent(reader, decimal))
            return false;
    }
    decimal->text.size = (size_t)(reader->at - decimal->text.data);
    return true;
}

bool take_integer(Reader *reader, int64_t *value)
{
    Decimal decimal;
    if (!take_decimal(reader, &decimal) || decimal.is_float)
        return false;
    if (decimal.digits >= UINT64_C(1000000000000000000) || (!decimal.digits && decimal.negative))
        return false;
    *value = decimal.negative ? -(int64_t)decimal.digits : (int64_t)decimal.digits;
    return true;
}

/* The nearest double, its distance from the decimal and the size of one unit of the decimal's last
 * digit, both in the same measure. */
typedef struct {
    double value;
    Wide distance, unit;
} Nearest;

static bool nearest(uint64_t digits, int power, Nearest *found)
{
    const int dropped = 75; /* bits of the product that are not in the 53 of a double */
    if (digits == 0 || power < FIRST_POWER || power > LAST_POWER)
        return false;
    const Power *factor = &POWERS[power - FIRST_POWER];
    int zeros = __builtin_clzll(digits);
    uint64_t shifted = digits << zeros;
    Wide product = (Wide)shifted * factor->high + ((Wide)shifted * factor->low >> 64);
    found->unit = (Wide)factor->high << zeros;
    /* floor(log2(5 ** power)), for all powers of the table */
    int exponent = (power * 152170 >> 16) + power - zeros - 63;
    if (!(product >> 127)) {
        product <<= 1;
        found->unit <<= 1;
        exponent--;
    }
    uint64_t mantissa = (uint64_t)(product >> dropped);
    Wide rest = product & (((Wide)1 << dropped) - 1), half = (Wide)1 << (dropped - 1);
    if (rest > half - SLACK && rest < half + SLACK)
        return false;
    found->distance = rest;
    if (rest > half) {
        mantissa++;
        found->distance = ((Wide)1 << dropped) - rest;
    }
    exponent += dropped;
    if (mantissa >> 53) {
        mantissa >>= 1;
        exponent++;
    }
    int biased = exponent + 52 + 1023;
    if (biased < 1 || biased > 2046)
        return false;
    uint64_t bits = (uint64_t)biased << 52 | (mantissa & ((UINT64_C(1) << 52) - 1));
    memcpy(&found->value, &bits, sizeof bits);
    return true;
}

bool decimal_value(const Decimal *decimal, double *value)
{
    Nearest found;
    if (decimal->digits == 0) {
        *value = decimal->negative ? -0.0 : 0.0;
        return true;
    }
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 0
    static const double exact[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                   1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                   1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    /* Both numbers are doubles, so that one division rounds once. */
    if (decimal->digits <= UINT64_C(1) << 53 && decimal->power <= 0 && decimal->power >= -22) {
        found.value = (double)decimal->digits / exact[-decimal->power];
        *value = decimal->negative ? -found.value : found.value;
        return true;
    }
#endif
    if (!nearest(decimal->digits, decimal->power, &found))
        return false;
    *value = decimal->negative ? -found.value : found.value;
    return true;
}

/* Whether the double lies exactly in the middle between the digits and the next ones. Such ties
 * are common among doubles that have been float32. */
static bool is_tie(uint64_t digits, int power, double value)
{
    int exponent, fives = 1 - power;
    uint64_t bits, mantissa;
    memcpy(&bits, &value, sizeof bits);
    mantissa = (bits & ((UINT64_C(1) << 52) - 1)) | UINT64_C(1) << 52;
    exponent = (int)(bits >> 52 & 0x7FF) - 1075 + __builtin_ctzll(mantissa);
    mantissa >>= __builtin_ctzll(mantissa);
    if (fives != -exponent || fives < 1 || fives > 27)
        return false; /* one digit more ends in 5, so that it has no factor of two */
    while (fives-- > 0) {
        if (mantissa > UINT64_MAX / 5)
            return false;
        mantissa *= 5;
    }
    return mantissa == 10 * digits - 5 || mantissa == 10 * digits + 5;
}

/* Whether the digits, without zeros at their end, are the shortest that tell the double apart, and
 * of these the nearest to it. */
static bool is_shortest(uint64_t digits, int power, int count)
{
    Nearest found, other;
    if (!nearest(digits, power, &found))
        return false;
    if (count <= SAFE_DIGITS)
        return true;
    if (count > 17)
        return false;
    if (2 * found.distance + 2 * SLACK >= found.unit &&
        (digits % 2 || !is_tie(digits, power, found.value)))
        return false;
    /* A shorter one would be among the neighbours with one digit less, or beyond them. */
    for (uint64_t shorter = digits / 10; shorter <= digits / 10 + 1; shorter++)
        if (!nearest(shorter, power + 1, &other) || other.value == found.value)
            return false;
    return true;
}

static bool put_zeros(Out *out, int count)
{
    while (count-- > 0)
        if (!out_byte(out, '0'))
            return false;
    return true;
}

/* Digits d with `count` digits, as d.ddd or ddd.d or 0.00ddd; `point` of them are before the point. */
static bool put_fixed(Out *out, const char *text, int count, int point)
{
    if (point <= 0)
        return out_text(out, "0.") && put_zeros(out, -point) && out_put(out, text, (size_t)count);
    if (point >= count)
        return out_put(out, text, (size_t)count) && put_zeros(out, point - count) &&
               out_text(out, ".0");
    return out_put(out, text, (size_t)point) && out_byte(out, '.') &&
           out_put(out, text + point, (size_t)(count - point));
}

static bool put_scientific(Out *out, const char *text, int count, int exponent)
{
    char number[4];
    int size = 0;
    if (!out_byte(out, (uint8_t)text[0]))
        return false;
    if (count > 1 && !(out_byte(out, '.') && out_put(out, text + 1, (size_t)(count - 1))))
        return false;
    if (!out_byte(out, 'e') || (exponent < 0 && !out_byte(out, '-')))
        return false;
    for (int left = exponent < 0 ? -exponent : exponent; left; left /= 10)
        number[size++] = (char)('0' + left % 10);
    while (size)
        if (!out_byte(out, (uint8_t)number[--size]))
            return false;
    return true;
}

static int digits_in(uint64_t number)
{
    static const uint64_t tens[] = {
        UINT64_C(0),
        UINT64_C(10),
        UINT64_C(100),
        UINT64_C(1000),
        UINT64_C(10000),
        UINT64_C(100000),
        UINT64_C(1000000),
        UINT64_C(10000000),
        UINT64_C(100000000),
        UINT64_C(1000000000),
        UINT64_C(10000000000),
        UINT64_C(100000000000),
        UINT64_C(1000000000000),
        UINT64_C(10000000000000),
        UINT64_C(100000000000000),
        UINT64_C(1000000000000000),
        UINT64_C(10000000000000000),
        UINT64_C(100000000000000000),
        UINT64_C(1000000000000000000),
        UINT64_C(10000000000000000000),
    };
    int least = (64 - __builtin_clzll(number)) * 1233 >> 12;
    return least + (number >= tens[least]);
}

bool write_float(const Decimal *decimal, Out *out)
{
    uint64_t digits = decimal->digits;
    int power = decimal->power, count = 0;
    char text[20] = "";
    if (digits == 0)
        return decimal->negative ? out_text(out, "-0.0") : out_text(out, "0.0");
    bool ends_right = decimal->is_fixed && digits % 10;
    while (digits % 10 == 0) {
        digits /= 10;
        power++;
    }
    count = digits_in(digits);
    if (!is_shortest(digits, power, count))
        return false;
    if (ends_right && count + power - 1 >= FIRST_FIXED)
        return out_put(out, decimal->text.data, decimal->text.size); /* as msgspec writes it */
    if (decimal->negative && !out_byte(out, '-'))
        return false;
    for (int place = count - 1; place >= 0; place--, digits /= 10)
        text[place] = (char)('0' + digits % 10);
    int exponent = count + power - 1;
    if (exponent >= FIRST_FIXED && exponent < FIRST_SCIENTIFIC)
        return put_fixed(out, text, count, exponent + 1);
    return put_scientific(out, text, count, exponent);
}
