//! Predictions of a woodpecker artifact in Rust, with the standard library alone:
//!
//!     rustc -O predict.rs && ./predict ./model.so [METHOD [THREADS]] < rows.csv
//!
//! reads rows of numbers, one line a row and an empty field for a missing value, and prints one line of results for each.
//! METHOD is raw (the default) or a method of the source model, such as predict_proba.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::io::BufRead;

/// `struct wp_model` of woodpecker.h, ABI version 1.
#[repr(C)]
struct Model {
    abi_version: u32,
    struct_size: u32,
    prefix: *const c_char,
    blob: *const u8,
    n_features: i32,
    n_outputs: i32,
    n_trees: i32,
    output_type: i32,
    n_methods: i32,
    n_levels: i32,
    methods: *const Method,
    levels: *const c_void,
    cpu_level: extern "C" fn() -> i32,
    scratch_size: extern "C" fn(i32) -> u64,
    predict: unsafe extern "C" fn(i32, i32, *const c_void, i64, i64, *mut c_void, u64, *mut c_void, u64, i32) -> i32,
}

#[repr(C)]
struct Method {
    name: *const c_char,
    width: i32,
}

const RAW: i32 = -1;
const FLOAT32: i32 = 1;
const FLOAT64: i32 = 2;

extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}

/// The model of an artifact. `dlopen` checks less than `wp_model_load`: give it files that are complete.
fn load(path: &str) -> Result<&'static Model, String> {
    let path = CString::new(path).map_err(|error| error.to_string())?;
    let said = || unsafe { CStr::from_ptr(dlerror()) }.to_string_lossy().into_owned();
    let library = unsafe { dlopen(path.as_ptr(), 2) };
    if library.is_null() {
        return Err(said());
    }
    let symbol = unsafe { dlsym(library, c"woodpecker_model".as_ptr()) };
    if symbol.is_null() {
        return Err(said());
    }
    let get: extern "C" fn() -> &'static Model = unsafe { std::mem::transmute(symbol) };
    let model = get();
    if model.abi_version != 1 {
        return Err(format!("ABI version {}, expected 1", model.abi_version));
    }
    match (model.cpu_level)() {
        level if level < 0 => Err(format!("this CPU can't run the model: status {}", -level)),
        _ => Ok(model),
    }
}

impl Model {
    fn methods(&self) -> &[Method] {
        unsafe { std::slice::from_raw_parts(self.methods, self.n_methods as usize) }
    }

    /// The number of a method, and the width of a row of its result.
    fn find(&self, name: &str) -> Result<(i32, usize), String> {
        if name == "raw" {
            return Ok((RAW, self.n_outputs as usize));
        }
        let named = |m: &&Method| unsafe { CStr::from_ptr(m.name) }.to_bytes() == name.as_bytes();
        let at = self.methods().iter().position(|m| named(&m)).ok_or("the model has no such method")?;
        Ok((at as i32, self.methods()[at].width as usize))
    }

    /// Results of type T for the rows of `x`.
    fn predict<T: Clone + Default>(&self, what: i32, width: usize, x: &[f64], threads: i32) -> Result<Vec<T>, String> {
        let features = self.n_features as usize;
        let rows = x.len() / features.max(1);
        let mut out = vec![T::default(); rows * width];
        let mut scratch = vec![0u8; (self.scratch_size)(threads) as usize];
        let bytes = std::mem::size_of_val(out.as_slice()) as u64;
        let status = unsafe {
            (self.predict)(
                what,
                FLOAT64,
                x.as_ptr().cast(),
                rows as i64,
                features as i64,
                out.as_mut_ptr().cast(),
                bytes,
                scratch.as_mut_ptr().cast(),
                scratch.len() as u64,
                threads,
            )
        };
        if status == 0 { Ok(out) } else { Err(format!("status {status}, see wp_status in woodpecker.h")) }
    }
}

fn show<T: std::fmt::Debug>(values: &[T], width: usize) {
    for row in values.chunks(width) {
        let texts: Vec<String> = row.iter().map(|value| format!("{value:?}")).collect();
        println!("{}", texts.join(","));
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let path = arguments.get(1).ok_or("usage: predict MODEL.so [METHOD [THREADS]] < rows.csv")?;
    let model = load(path)?;
    let (what, width) = model.find(arguments.get(2).map_or("raw", |name| name))?;
    let threads = arguments.get(3).map_or(Ok(1), |text| text.parse().map_err(|_| "THREADS must be a number"))?;
    let mut x: Vec<f64> = Vec::new();
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.map_err(|error| error.to_string())?;
        let before = x.len();
        for field in line.split(',') {
            let value = if field.trim().is_empty() { Ok(f64::NAN) } else { field.trim().parse() };
            x.push(value.map_err(|_| format!("line {}: {field:?} is no number", number + 1))?);
        }
        if x.len() - before != model.n_features as usize {
            return Err(format!("line {} does not hold {} numbers", number + 1, model.n_features));
        }
    }
    if model.output_type == FLOAT32 {
        show(&model.predict::<f32>(what, width, &x, threads)?, width);
    } else {
        show(&model.predict::<f64>(what, width, &x, threads)?, width);
    }
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Err(message) = run(&arguments) {
        eprintln!("error: {message}");
        std::process::exit(1);
    }
}
